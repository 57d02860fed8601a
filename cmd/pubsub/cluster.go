package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"text/tabwriter"

	"github.com/alecthomas/kong"

	"pubsub/internal/app"
	"pubsub/internal/backplane/nats"
	"pubsub/internal/config"
)

type clusterCmd struct {
	Check         clusterCheckCmd         `cmd:"" help:"Compare the streams in NATS with those that a broker needs."`
	MakeKeyBucket clusterMakeKeyBucketCmd `cmd:"" help:"Replace a lost bucket of signing keys by an empty one."`
}

// Help implements [kong.HelpProvider].
func (*clusterCmd) Help() string {
	return `
All nodes on the same NATS form one broker. To start a node, run "pubsub serve"
with --nats.

Example:
  pubsub cluster check --nats nats://a:4222`
}

type clusterCheckCmd struct {
	natsSettings
}

// natsSettings are the settings of a command that uses only NATS.
type natsSettings struct {
	settings []setting `kong:"-"`
}

// Help implements [kong.HelpProvider].
func (*clusterCheckCmd) Help() string {
	return `
Prints a table of streams that are missing in NATS and of settings that a broker
cannot work with. It changes nothing. The exit status is 0 if nothing needs
repair. That includes a broker that was never started: its first node creates
the streams.

The flags can also be set by variables and a file, as for "pubsub serve".

Examples:
  pubsub cluster check --nats nats://a:4222 --nats-creds node.creds
  pubsub cluster check --config pubsub.yaml`
}

// addSettings adds a flag for each setting of NATS.
func (c *clusterCheckCmd) addSettings(k *kong.Kong) error { return c.add(k, "check") }

func (c *natsSettings) add(k *kong.Kong, command string) error {
	some := slices.DeleteFunc(config.Settings(), func(s config.Setting) bool {
		return s.Group != "Cluster" && s.Name != "max-message-size" || s.Name == "nats-sync-interval"
	})
	c.settings = settingFlags(childNamed(childNamed(k.Model.Node, "cluster"), command), some)
	return nil
}

// with calls f with the options of the settings. Its error begins with work, a verb such as
// "check".
func (c *natsSettings) with(p *process, all *cli, ctx *kong.Context, work string, f func(context.Context, nats.Options) error) error {
	cfg, err := load(p, inputs(p, all, ctx, c.settings))
	if err != nil {
		return err
	}
	if len(cfg.NATS) == 0 {
		return &hintedError{usagef("missing addresses of NATS servers"), "Give --nats, or set " + config.Variable("nats") + "."}
	}
	o := app.NATSOptions(cfg)
	var last atomic.Pointer[error] // why there is no connection
	o.Events.Waiting = func(err error) { last.Store(&err) }
	err = f(context.Background(), o)
	switch {
	case errors.Is(err, nats.ErrOptions):
		return &usageError{err}
	case err != nil:
		if why := last.Load(); why != nil && errors.Is(err, context.DeadlineExceeded) {
			err = *why
		}
		return fmt.Errorf("cannot %s NATS at %s: %w", work, strings.Join(cfg.NATS, ", "), err)
	}
	return nil
}

// Run prints the differences.
func (c *clusterCheckCmd) Run(p *process, all *cli, ctx *kong.Context) error {
	var found []nats.Difference
	var none bool
	err := c.with(p, all, ctx, "check", func(ctx context.Context, o nats.Options) (err error) {
		found, none, err = nats.Check(ctx, o)
		return err
	})
	switch {
	case err != nil:
		return err
	case none:
		fmt.Fprintln(p.stderr, "This broker has no streams in NATS yet; its first node creates them.")
		return nil
	case len(found) == 0:
		fmt.Fprintln(p.stderr, "All streams in NATS are as a broker needs them.")
		return nil
	}
	w := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "STREAM\tSETTING\tIS\tMUST BE\tTO DO")
	for _, d := range found {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", d.Stream, d.Setting, d.Have, d.Want, d.Fix)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return fmt.Errorf("a broker cannot work with %s in NATS; see the table", plural(len(found), "setting"))
}

type clusterMakeKeyBucketCmd struct {
	natsSettings
}

// Help implements [kong.HelpProvider].
func (*clusterMakeKeyBucketCmd) Help() string {
	return `
Nodes never recreate a lost bucket of signing keys, because that would hide the
loss. If you have a backup, restore it with "nats stream restore" instead. With
an empty bucket all tokens of lost keys are invalid, and running nodes end the
streams and sessions that were opened with them. Afterwards create new keys, or
import the old ones with "pubsub store import".

An existing bucket is not changed; the exit status is then 1.

Example:
  pubsub cluster make-key-bucket --nats nats://a:4222`
}

// addSettings adds a flag for each setting of NATS.
func (c *clusterMakeKeyBucketCmd) addSettings(k *kong.Kong) error { return c.add(k, "make-key-bucket") }

// Run makes the bucket.
func (c *clusterMakeKeyBucketCmd) Run(p *process, all *cli, ctx *kong.Context) error {
	err := c.with(p, all, ctx, "create the bucket of signing keys in", nats.MakeKeyBucket)
	if err == nil {
		fmt.Fprintln(p.stderr, "Created an empty bucket of signing keys.")
	}
	return err
}
