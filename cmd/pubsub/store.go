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

	Keys   bool           `default:"true" help:"Include the signing keys, which are secrets."`
	Export storeExportCmd `cmd:"" help:"Export retained messages and signing keys to a file."`
	Import storeImportCmd `cmd:"" help:"Import retained messages and signing keys from a file."`
}

// Help implements [kong.HelpProvider].
func (*storeCmd) Help() string {
	return `
Use it for backups, and to move from one broker to another, or from a single
broker to a cluster. The store is the data directory of --data-dir, or that of
the cluster of --nats. The flags can also be set by variables and a file, as for
"pubsub serve".

Examples:
  pubsub store export --data-dir /var/lib/pubsub moving.jsonl
  pubsub store import --nats nats://10.0.0.1:4222 moving.jsonl`
}

// addSettings adds a flag for each setting of the store.
func (c *storeCmd) addSettings(k *kong.Kong) error {
	some := slices.DeleteFunc(config.Settings(), func(s config.Setting) bool {
		switch s.Name {
		case "data-dir", "disk-reserve":
			return false
		case "nats-sync-interval": // not used without subscribers
			return true
		}
		return s.Group != "Cluster"
	})
	c.settings = settingFlags(childNamed(k.Model.Node, "store"), some)
	return nil
}

// config returns the settings of the store.
func (c *storeCmd) config(p *process, all *cli, ctx *kong.Context) (*config.Config, error) {
	in := inputs(p, all, ctx, c.settings)
	// No server runs, so no admin token is needed.
	in.Flags = append(in.Flags, config.Flag{Name: "admin", Value: "false"})
	cfg, err := load(p, in)
	if err != nil {
		return nil, err
	}
	if cfg.InMemory {
		return nil, usagef("in-memory (%v) is not allowed here: no other process can read a store in memory; give --data-dir or --nats", cfg.Origin("in-memory"))
	}
	if len(cfg.NATS) > 0 && cfg.Given("data-dir") {
		return nil, usagef("data-dir (%v) is not allowed here with nats (%v): each is a store; give only one of them", cfg.Origin("data-dir"), cfg.Origin("nats"))
	}
	return cfg, nil
}

// with opens the store, calls do with it, and closes it. A signal cancels the context.
func (c *storeCmd) with(p *process, cfg *config.Config, do func(ctx context.Context, b pubsub.Backplane) error) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal kills the process
	var mu sync.Mutex
	last := "" // the last error reported; guarded by mu
	restrictUmask()
	b, err := app.OpenStore(ctx, cfg, func(err error) {
		mu.Lock()
		defer mu.Unlock()
		if last != err.Error() {
			last = err.Error()
			fmt.Fprintln(p.stderr, "pubsub:", last)
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
		err = &hintedError{err, "Check the store, and run the command again."}
	}
	return adviseServe(errors.Join(err, b.Close()))
}

var errInterrupted = errors.New("interrupted")

type storeExportCmd struct {
	File string `arg:"" name:"FILE" help:"File to write, with mode 0600; - writes to standard output."`
}

// Help implements [kong.HelpProvider].
func (*storeExportCmd) Help() string {
	return `
The file is text with one JSON object on each line. It replaces an older file
only when it is complete. Each message keeps its times of publication and
expiry, so the time that it spends in the file counts towards its TTL.

Expired messages, clears, versions and the admin token are not exported. Stop
the broker before you export its data directory. A cluster may keep running: the
export then has, for each topic, the message of some time during the export.

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
		// Opening the store would create it.
		if _, err := os.Stat(filepath.Join(string(cfg.DataDir), "FORMAT")); errors.Is(err, os.ErrNotExist) {
			return &hintedError{fmt.Errorf("there is no store in %s", cfg.DataDir), "Give the data directory of a broker with --data-dir, or a cluster with --nats."}
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
		if errors.Is(err, syscall.EPIPE) { // a failure here, because the export is incomplete
			return errors.New("the reader of standard output closed it before the end of the export")
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
	File string `arg:"" name:"FILE" help:"File that was written by store export; - reads standard input."`
}

// Help implements [kong.HelpProvider].
func (*storeImportCmd) Help() string {
	return `
A file is checked completely before anything is imported; a pipe is imported as
it is read. Each imported message is read back.

An interrupted import can be repeated. The time of publication decides: a topic
is not changed if it has a message at least as new as that of the file, or if it
was cleared that recently within the last 24 hours. So the clocks of the brokers
must agree. If nodes of the cluster are running, a message that is published to
a topic at the moment of its import can be lost; import before they start to
avoid that.

A key that was deleted since the export is added again, unless --keys=false.

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
	var size int64 // 0 if unknown
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
		return &hintedError{err, fmt.Sprintf("%s had been imported. Run the command again to continue.",
			counts(done.Imported, done.KeysImported))}
	}
	fmt.Fprintf(p.stderr, "pubsub: imported %s of %s, SHA-256 %s\n", counts(done.Imported, done.KeysImported), contents(&done.Summary), done.SHA256)
	for _, skipped := range []struct {
		n      int
		reason string
	}{
		{done.Present, "already in the store"},
		{done.Newer, "not newer than the store's"},
		{done.Expired, "expired"},
	} {
		if skipped.n > 0 {
			fmt.Fprintf(p.stderr, "pubsub: skipped %s: %s\n", plural(skipped.n, "message"), skipped.reason)
		}
	}
	return nil
}

// check checks a file and seeks back to its beginning. It does not read a named pipe, and
// returns size 0 for it.
func (c *storeImportCmd) check(p *process, f *os.File) (size int64, err error) {
	fi, err := f.Stat()
	if err != nil {
		return 0, err
	}
	if fi.IsDir() {
		return 0, errors.New("is a directory; give a file that was written by store export")
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

// contents describes the contents of a file.
func contents(s *transfer.Summary) string {
	return fmt.Sprintf("%s in %d bytes", counts(s.Messages, s.Keys), s.Bytes)
}

func counts(messages, keys int) string {
	return plural(messages, "message") + " and " + plural(keys, "signing key")
}

// plural returns n with a noun in the singular or plural.
func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
