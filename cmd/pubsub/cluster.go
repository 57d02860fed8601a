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
	Check clusterCheckCmd `cmd:"" help:"Compare what is in NATS with what a broker needs there."`
}

// Help implements [kong.HelpProvider].
func (*clusterCmd) Help() string {
	return `
Any number of nodes on the same NATS are one broker: "pubsub serve --nats URL".

Example:
  pubsub cluster check --nats nats://a:4222`
}

type clusterCheckCmd struct {
	settings []setting `kong:"-"`
}

// Help implements [kong.HelpProvider].
func (*clusterCheckCmd) Help() string {
	return `
Prints a table of the settings in NATS that a broker cannot work with: no node
would start. What is missing in NATS is no matter: the first node makes it.
Nothing is changed here. Exit status 0 means that there is nothing to do.

Variables and the file of --config count, as for pubsub serve.

Examples:
  pubsub cluster check --nats nats://a:4222 --nats-creds node.creds
  pubsub cluster check --config pubsub.yaml`
}

// addSettings makes a flag of every setting that has to do with NATS.
func (c *clusterCheckCmd) addSettings(k *kong.Kong) error {
	some := slices.DeleteFunc(config.Settings(), func(s config.Setting) bool {
		return s.Group != "Cluster" && s.Name != "max-message-size" || s.Name == "nats-sync-interval"
	})
	c.settings = settingFlags(childNamed(childNamed(k.Model.Node, "cluster"), "check"), some)
	return nil
}

// Run prints the differences.
func (c *clusterCheckCmd) Run(p *process, all *cli, ctx *kong.Context) error {
	cfg, err := load(p, inputs(p, all, ctx, c.settings))
	if err != nil {
		return err
	}
	if len(cfg.NATS) == 0 {
		return &hintedError{usagef("the addresses of the NATS servers are missing"), "Give --nats, or set " + config.Variable("nats") + "."}
	}
	o := app.NATSOptions(cfg)
	var last atomic.Pointer[error] // why there is no connection
	o.Events.Waiting = func(err error) { last.Store(&err) }
	found, err := nats.Check(context.Background(), o)
	switch {
	case errors.Is(err, nats.ErrOptions):
		return &usageError{err}
	case err != nil:
		if why := last.Load(); why != nil && errors.Is(err, context.DeadlineExceeded) {
			err = *why
		}
		return fmt.Errorf("cannot check NATS at %s: %w", strings.Join(cfg.NATS, ", "), err)
	case len(found) == 0:
		fmt.Fprintln(p.stderr, "All that is in NATS is as a broker needs it.")
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
	return fmt.Errorf("%d settings in NATS are not as a broker needs them", len(found))
}
