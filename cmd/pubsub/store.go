package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"sync"
	"syscall"

	"github.com/alecthomas/kong"

	"pubsub"
	"pubsub/internal/app"
	"pubsub/internal/config"
	"pubsub/internal/transfer"
)

type storeCmd struct {
	settings []setting `kong:"-"`

	Keys   bool           `default:"true" help:"With the signing keys, which are secrets."`
	Export storeExportCmd `cmd:"" help:"Write retained messages and signing keys to a file."`
	Import storeImportCmd `cmd:"" help:"Put retained messages and signing keys from a file into a store."`
}

// Help implements [kong.HelpProvider].
func (*storeCmd) Help() string {
	return `
From one broker to another, or from a broker alone to a cluster. The store is
the data directory that --data-dir names, or that of the cluster that --nats
names; the flags can also be variables and lines of a file, as those of serve.

Example:
  pubsub store export --data-dir /var/lib/pubsub moving.jsonl
  pubsub store import --nats nats://10.0.0.1:4222 moving.jsonl`
}

// addSettings makes a flag of every setting that says where the store is.
func (c *storeCmd) addSettings(k *kong.Kong) error {
	where := slices.DeleteFunc(config.Settings(), func(s config.Setting) bool {
		switch s.Name {
		case "data-dir", "disk-reserve":
			return false
		case "nats-sync-interval": // nobody listens here
			return true
		}
		return s.Group != "Cluster"
	})
	c.settings = settingFlags(childNamed(k.Model.Node, "store"), where)
	return nil
}

// config returns the settings that say where the store is.
func (c *storeCmd) config(p *process, all *cli, ctx *kong.Context) (*config.Config, error) {
	in := inputs(p, all, ctx, c.settings)
	// No client comes here, so no token is needed.
	in.Flags = append(in.Flags, config.Flag{Name: "admin", Value: "false"})
	cfg, err := load(p, in)
	if err != nil {
		return nil, err
	}
	if cfg.InMemory {
		return nil, usagef("in-memory (%v) is not allowed here: what is in memory nobody else can read; give --data-dir or --nats", cfg.Origin("in-memory"))
	}
	if len(cfg.NATS) > 0 && cfg.Given("data-dir") {
		return nil, usagef("data-dir (%v) is not allowed here with nats (%v) set: each is a store; give one of them", cfg.Origin("data-dir"), cfg.Origin("nats"))
	}
	return cfg, nil
}

// with opens the store and passes it to do, with a context that a signal ends.
func (c *storeCmd) with(p *process, cfg *config.Config, do func(ctx context.Context, b pubsub.Backplane) error) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal kills
	var mu sync.Mutex
	told := "" // guarded by mu
	restrictUmask()
	b, err := app.OpenStore(ctx, cfg, func(err error) {
		mu.Lock()
		defer mu.Unlock()
		if told != err.Error() { // once is enough
			told = err.Error()
			fmt.Fprintln(p.stderr, "pubsub:", told)
		}
	})
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return errInterrupted
	}
	if err != nil {
		return adviseServe(err)
	}
	err = do(ctx, b)
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		err = errInterrupted
	}
	if errors.Is(err, pubsub.ErrUnavailable) {
		err = &hintedError{err, "See to NATS, and run it again."}
	}
	return adviseServe(errors.Join(err, b.Close()))
}

var errInterrupted = errors.New("interrupted")

type storeExportCmd struct {
	File string `arg:"" name:"FILE" help:"File to write, which only its owner can read; - writes to standard output."`
}

// Help implements [kong.HelpProvider].
func (*storeExportCmd) Help() string {
	return `
The file has its name once it is whole, and then replaces what had it. It is
text, one JSON object a line. Each message keeps its time of publication and of
expiry: the time that it spends in the file is a part of its life.

Left out are what has expired, that topics were cleared, versions, and the admin
token, which is a setting. A data directory is for one: stop its broker before.
A cluster may go on; each topic is then as it was at some time of the export.

Examples:
  pubsub store export --data-dir /var/lib/pubsub backup.jsonl
  pubsub store export --nats nats://10.0.0.1:4222 --keys=false - | gzip > b.gz`
}

// Run writes the file.
func (c *storeExportCmd) Run(p *process, all *cli, parent *storeCmd, kctx *kong.Context) error {
	cfg, err := parent.config(p, all, kctx)
	if err != nil {
		return err
	}
	if len(cfg.NATS) == 0 {
		// It would be made.
		if _, err := os.Stat(filepath.Join(string(cfg.DataDir), "FORMAT")); errors.Is(err, os.ErrNotExist) {
			return &hintedError{fmt.Errorf("there is no store in %s", cfg.DataDir), "Name the data directory of a broker with --data-dir, or a cluster with --nats."}
		}
	}
	var done transfer.Summary
	err = parent.with(p, cfg, func(ctx context.Context, b pubsub.Backplane) error {
		g := newGauge(p.stderr, "exporting")
		defer g.clear()
		total := 0
		if g.terminal {
			var err error
			if total, err = transfer.Count(ctx, b); err != nil {
				return err
			}
		}
		write := func(w io.Writer) (err error) {
			done, err = transfer.Export(ctx, w, b, transfer.Options{
				WithoutKeys: !parent.Keys,
				Progress:    func(at transfer.Progress) { g.show(at.Messages, int64(at.Messages), int64(total)) },
			})
			return err
		}
		if c.File != "-" {
			return transfer.WriteFile(c.File, write)
		}
		err := write(p.stdout)
		if errors.Is(err, syscall.EPIPE) { // which is a failure here: it is not whole
			return errors.New("whoever read standard output went away before the end")
		}
		return err
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(p.stderr, "pubsub: exported %s, SHA-256 %s\n", contents(&done), done.SHA256)
	return nil
}

type storeImportCmd struct {
	File string `arg:"" name:"FILE" help:"File that store export has written; - reads standard input."`
}

// Help implements [kong.HelpProvider].
func (*storeImportCmd) Help() string {
	return `
A file is read to its end, and checked, before anything is done with it; what
comes from a pipe is imported as it comes. Each message is read back.

An import that was cut off can be run again. It goes by the time of publication:
a topic that has something as new as the file, or was cleared as late within the
last 24 hours, is left alone. So the clocks of the brokers must agree. In a
cluster whose nodes run, what is published to a topic in the very moment that it
is imported can be lost: to rule that out, import before the nodes start.

A key that was deleted since the export comes back, but for --keys=false.

Examples:
  pubsub store import --nats nats://10.0.0.1:4222 moving.jsonl
  gunzip < b.gz | pubsub store import --data-dir /var/lib/pubsub -`
}

// Run reads the file.
func (c *storeImportCmd) Run(p *process, all *cli, parent *storeCmd, kctx *kong.Context) error {
	cfg, err := parent.config(p, all, kctx)
	if err != nil {
		return err
	}
	in, name := p.stdin, "standard input"
	var size int64 // 0 if it is not known
	if c.File != "-" {
		name = c.File
		f, err := os.Open(c.File)
		if err != nil {
			return err
		}
		defer f.Close()
		if size, err = c.check(p, f); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		in = f
	}
	var done transfer.Result
	err = parent.with(p, cfg, func(ctx context.Context, b pubsub.Backplane) (err error) {
		g := newGauge(p.stderr, "importing")
		defer g.clear()
		done, err = transfer.Import(ctx, in, b, transfer.Options{
			WithoutKeys: !parent.Keys,
			Progress:    func(at transfer.Progress) { g.show(at.Messages, at.Bytes, size) },
		})
		return err
	})
	if err != nil {
		if !errors.Is(err, errInterrupted) {
			err = fmt.Errorf("%s: %w", name, err)
		}
		if done.Imported+done.KeysImported == 0 {
			return err
		}
		return &hintedError{err, fmt.Sprintf("%s had been imported. Run it again to go on from there.",
			counts(done.Imported, done.KeysImported))}
	}
	fmt.Fprintf(p.stderr, "pubsub: imported %s of %s, SHA-256 %s\n", counts(done.Imported, done.KeysImported), contents(&done.Summary), done.SHA256)
	for _, left := range []struct {
		n    int
		what string
	}{
		{done.Present, "there already"},
		{done.Newer, "not newer than what the store has"},
		{done.Expired, "expired"},
	} {
		if left.n > 0 {
			fmt.Fprintf(p.stderr, "pubsub: not imported, since %s: %s\n", left.what, plural(left.n, "message"))
		}
	}
	return nil
}

// check reads a file to its end, and then goes back to the beginning. A pipe that
// has a name is left alone; its size is 0.
func (c *storeImportCmd) check(p *process, f *os.File) (size int64, err error) {
	fi, err := f.Stat()
	if err != nil {
		return 0, err
	}
	if fi.IsDir() {
		return 0, errors.New("is a directory; name a file that store export has written")
	}
	if !fi.Mode().IsRegular() {
		return 0, nil
	}
	g := newGauge(p.stderr, "checking")
	defer g.clear()
	_, err = transfer.Check(context.Background(), f, transfer.Options{
		Progress: func(at transfer.Progress) { g.show(at.Messages, at.Bytes, fi.Size()) },
	})
	if err != nil {
		return 0, err
	}
	_, err = f.Seek(0, io.SeekStart)
	return fi.Size(), err
}

// contents says in words what a file holds.
func contents(s *transfer.Summary) string {
	return fmt.Sprintf("%s in %d bytes", counts(s.Messages, s.Keys), s.Bytes)
}

func counts(messages, keys int) string {
	return plural(messages, "message") + " and " + plural(keys, "signing key")
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
