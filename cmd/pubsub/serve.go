package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"reflect"
	"runtime"
	"syscall"

	"github.com/alecthomas/kong"

	"pubsub/internal/app"
	"pubsub/internal/backplane/nats"
	"pubsub/internal/config"
)

type serveCmd struct {
	settings []setting `kong:"-"`
}

// setting is the flag of a setting, with the values that were given.
type setting struct {
	name   string
	values []string
}

// Help implements [kong.HelpProvider].
func (*serveCmd) Help() string {
	return `
Each flag --some-name can also be set by the variable PUBSUB_SOME_NAME, or by a
line "some-name: value" in the file of --config. A flag overrides the variable,
and the variable overrides the file. Durations are written like 30s or 1m30s,
sizes in bytes or like 256KiB. For a list, separate the values with commas or
repeat the flag.

SIGTERM or SIGINT closes all streams and exits; a second one exits at once.
SIGHUP reloads certificates, the log level, allowed origins and limits.

Examples:
  pubsub serve --dev
  pubsub serve --data-dir /var/lib/pubsub --tls-cert cert.pem --tls-key key.pem
  PUBSUB_ADMIN_TOKEN=... pubsub serve --nats nats://a:4222,nats://b:4222
  PUBSUB_ADMIN_TOKEN=... pubsub serve --config pubsub.yaml`
}

// addSettings adds a flag for every setting.
func (c *serveCmd) addSettings(k *kong.Kong) error {
	c.settings = settingFlags(childNamed(k.Model.Node, "serve"), config.Settings())
	return nil
}

// settingFlags adds a flag for each of the settings to a command. The parser stores the values
// in the result.
func settingFlags(n *kong.Node, some []config.Setting) []setting {
	given := make([]setting, len(some))
	for i, s := range some {
		given[i].name = s.Name
		target := reflect.ValueOf(&given[i].values).Elem()
		f := &kong.Flag{
			Value: &kong.Value{
				Name: s.Name, Help: s.Help, OrigHelp: s.Help, Default: s.Default,
				Target: target, DefaultValue: reflect.Zero(target.Type()),
				Mapper: settingMapper{s.Bool}, Tag: &kong.Tag{},
			},
			Group:       &kong.Group{Key: s.Group, Title: s.Group},
			PlaceHolder: s.Placeholder,
		}
		if s.List {
			f.PlaceHolder += ",..."
		}
		f.Flag = f
		n.Flags = append(n.Flags, f)
	}
	return given
}

// inputs returns the sources of the settings of a command.
func inputs(p *process, all *cli, ctx *kong.Context, given []setting) config.Inputs {
	in := config.Inputs{Environ: p.environ, Others: flagNames(ctx.Model.Node)}
	if all.Config != "" {
		in.Flags = append(in.Flags, config.Flag{Name: "config", Value: all.Config})
	}
	for _, s := range given {
		for _, v := range s.values {
			in.Flags = append(in.Flags, config.Flag{Name: s.name, Value: v})
		}
	}
	return in
}

// load returns the settings of in and prints warnings.
func load(p *process, in config.Inputs) (*config.Config, error) {
	cfg, unknown, err := config.Load(in)
	p.warn(unknown)
	if err != nil {
		return nil, &usageError{err}
	}
	return cfg, nil
}

// warn prints warnings of unknown variables.
func (p *process) warn(unknown []config.UnknownVariable) {
	for _, v := range unknown {
		fmt.Fprintln(p.stderr, "pubsub: warning:", v)
	}
}

// Run runs the broker until a signal ends it.
func (c *serveCmd) Run(p *process, all *cli, ctx *kong.Context) error {
	// A broker must neither hang nor fail to stop if its output is not read.
	out := app.NewOutput(p.stderr)
	p.stderr, p.flush = out, out.Flush
	in := inputs(p, all, ctx, c.settings)
	cfg, unknown, err := config.Load(in)
	if err != nil {
		p.warn(unknown)
		return &usageError{err}
	}
	log := app.NewLogger(out, cfg)
	for _, v := range unknown {
		log.Warn("unknown environment variable ignored", "variable", v.Name, "nearest_setting", v.Nearest)
	}

	restrictUmask()
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	running, cancel := context.WithCancel(context.Background())
	reload := make(chan struct{}, 1)
	handled := make(chan struct{})
	go func() {
		defer close(handled)
		for s := range signals {
			switch {
			case s == syscall.SIGHUP:
				select {
				case reload <- struct{}{}:
				default: // a reload is pending already
				}
			case running.Err() == nil:
				cancel()
			default:
				log.Warn("exiting at once", "reason", "second signal")
				p.flush()
				os.Exit(statusFailed)
			}
		}
	}()
	defer func() {
		signal.Stop(signals)
		close(signals)
		<-handled
		cancel()
	}()
	// Use one processor more than shards. Otherwise the runtime would poll the network only
	// every 10 ms while all shards are busy.
	shards := runtime.GOMAXPROCS(0)
	runtime.GOMAXPROCS(shards + 1)
	return adviseServe(app.Run(running, cfg, app.Options{
		Stdout: p.stdout, Stderr: p.stderr, Log: log, Version: buildVersion(), Shards: shards, Reload: reload,
		ConfigReload: func() (*config.Config, error) {
			again := in
			again.Reload = true
			next, _, err := config.Load(again)
			return next, err
		},
	}))
}

// adviseServe marks an error of wrong settings as wrong use, and adds a hint to others.
func adviseServe(err error) error {
	var problem *config.Problem
	switch {
	case errors.As(err, &problem), errors.Is(err, nats.ErrOptions):
		return &usageError{err}
	case errors.Is(err, nats.ErrSettings):
		return &hintedError{err, `"pubsub cluster check" shows this as a table, with the same settings.`}
	}
	return err
}
