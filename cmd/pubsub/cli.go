package main

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/alecthomas/kong"

	"pubsub/internal/config"
)

// cli is the grammar of the command line, without the flags for settings, which
// internal/config declares.
type cli struct {
	Help   helpFlag `short:"h" help:"Show help."`
	Config string   `placeholder:"FILE" help:"YAML file that sets flags by lines \"name: value\"."`

	Serve      serveCmd      `cmd:"" help:"Run the broker."`
	Key        keyCmd        `cmd:"" help:"Create, list and delete signing keys."`
	Token      tokenCmd      `cmd:"" help:"Create a token for publishing and subscribing."`
	Pub        pubCmd        `cmd:"" help:"Publish a message."`
	Sub        subCmd        `cmd:"" help:"Subscribe to topics and print each message."`
	Store      storeCmd      `cmd:"" help:"Export and import retained messages and signing keys."`
	Cluster    clusterCmd    `cmd:"" help:"Check and repair a cluster of nodes over NATS."`
	Version    versionCmd    `cmd:"" help:"Show the version."`
	Completion completionCmd `cmd:"" help:"Print a completion script for a shell."`
}

// command runs the command line.
func command(p *process) error {
	c := new(cli)
	parser, err := newParser(c, p)
	if err != nil {
		return err
	}
	if len(p.args) == 0 {
		fmt.Fprint(p.stderr, helpText(parser.Model.Node))
		return &usageError{errShown}
	}
	args := p.args
	switch args[0] { // forms that users of other programs expect
	case "help":
		args = append(args[1:len(args):len(args)], "--help")
	case "--version":
		args = append([]string{"version"}, args[1:]...)
	}
	a := arrange(parser.Model.Node, args)
	if err := a.check(); err != nil {
		return err
	}
	ctx, err := parser.Parse(a.args())
	switch {
	case errors.Is(err, errShown):
		return nil
	case err != nil:
		return explain(err)
	}
	return ctx.Run()
}

// newParser builds the parser of the grammar c.
func newParser(c *cli, p *process) (*kong.Kong, error) {
	r := &resolver{environ: p.environ}
	parser, err := kong.New(c,
		kong.Name("pubsub"),
		kong.NoDefaultHelp(),
		kong.Help(printHelp),
		kong.Writers(p.stdout, p.stderr),
		kong.PostBuild(c.Serve.addSettings),
		kong.PostBuild(c.Cluster.Check.addSettings),
		kong.PostBuild(c.Cluster.MakeKeyBucket.addSettings),
		kong.PostBuild(c.Store.addSettings),
		kong.Resolvers(r),
		kong.Bind(p, c),
	)
	if err != nil {
		return nil, err
	}
	parser.Model.Name = "pubsub" // not the name of the file
	r.names = flagNames(parser.Model.Node)
	return parser, nil
}

// flagNames returns the names of all flags that a configuration file can set, except the
// settings.
func flagNames(root *kong.Node) []string {
	var names []string
	for _, n := range append([]*kong.Node{root}, nodes(root)...) {
		for _, f := range n.Flags {
			if _, setting := f.Mapper.(settingMapper); !setting && f.Name != "help" && f.Name != "config" {
				names = append(names, f.Name)
			}
		}
	}
	return names
}

// nodes returns all commands below n, each before its subcommands.
func nodes(n *kong.Node) []*kong.Node {
	var all []*kong.Node
	for _, child := range n.Children {
		all = append(append(all, child), nodes(child)...)
	}
	return all
}

// resolver finds the values of flags that are not on the command line: in the environment,
// or else in the configuration file. It skips settings, which [config.Load] resolves.
type resolver struct {
	environ []string
	names   []string         // of all flags except settings
	file    *config.Document // nil until it is needed
}

// Validate implements [kong.Resolver].
func (r *resolver) Validate(*kong.Application) error { return nil }

// Resolve implements [kong.Resolver].
func (r *resolver) Resolve(ctx *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	if _, setting := flag.Mapper.(settingMapper); setting || flag.Name == "help" {
		return nil, nil
	}
	if value, ok := variable(r.environ, flag.Name); ok {
		return value, nil
	}
	if node := ctx.Selected(); flag.Name == "config" || node == nil || node.Name == "serve" {
		return nil, nil
	}
	values, err := r.lookUp(ctx, flag.Name)
	if err != nil || values == nil {
		return nil, err
	}
	if flag.IsSlice() {
		list := make([]any, len(values))
		for i, v := range values {
			list[i] = v
		}
		return list, nil
	}
	if len(values) != 1 {
		return nil, errors.New("is a list in the configuration file, but takes one value")
	}
	return values[0], nil
}

// lookUp returns the values of a key in the configuration file, or nil if there is no such
// key or no file.
func (r *resolver) lookUp(ctx *kong.Context, name string) ([]string, error) {
	if r.file == nil {
		path, _ := variable(r.environ, "config")
		for _, f := range ctx.Model.Flags {
			if given, ok := ctx.FlagValue(f).(string); ok && f.Name == "config" && given != "" {
				path = given
			}
		}
		if path == "" {
			return nil, nil
		}
		known := slices.Clone(r.names)
		for _, s := range config.Settings() {
			known = append(known, s.Name)
		}
		var err error
		if r.file, err = config.ReadFile(path, known); err != nil {
			return nil, &fileError{err}
		}
	}
	values, _ := r.file.Get(name)
	return values, nil
}

// variable returns the value of the environment variable of a flag.
func variable(environ []string, flag string) (value string, ok bool) {
	prefix := config.Variable(flag) + "="
	for _, kv := range environ {
		if value, ok := strings.CutPrefix(kv, prefix); ok {
			return value, true
		}
	}
	return "", false
}

// settingMapper stores the value of a setting unchanged, for [config.Load] to parse.
type settingMapper struct{ isBool bool }

// IsBool implements [kong.BoolMapper].
func (m settingMapper) IsBool() bool { return m.isBool }

// Decode implements [kong.Mapper].
func (m settingMapper) Decode(ctx *kong.DecodeContext, target reflect.Value) error {
	value := "true"
	if !m.isBool || ctx.Scan.Peek().Type == kong.FlagValueToken {
		value = ctx.Scan.Pop().String()
	}
	target.Set(reflect.Append(target, reflect.ValueOf(value)))
	return nil
}
