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

// cli is the command line. Flags that are settings are not here: internal/config
// declares them.
type cli struct {
	Help   helpFlag `short:"h" help:"Show help."`
	Config string   `placeholder:"FILE" help:"YAML file with a line \"name: value\" for each flag to set."`

	Serve      serveCmd      `cmd:"" help:"Run the broker."`
	Key        keyCmd        `cmd:"" help:"Create, list and delete signing keys."`
	Token      tokenCmd      `cmd:"" help:"Sign a token with a key."`
	Pub        pubCmd        `cmd:"" help:"Publish a message."`
	Sub        subCmd        `cmd:"" help:"Subscribe, and print each message."`
	Store      storeCmd      `cmd:"" help:"Take what a store keeps to another."`
	Cluster    clusterCmd    `cmd:"" help:"Look after a cluster: many nodes over NATS."`
	Version    versionCmd    `cmd:"" help:"Show the version."`
	Completion completionCmd `cmd:"" help:"Print completions for a shell."`
}

// command does what the command line says.
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
	switch args[0] { // what people try
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
	parser.Model.Name = "pubsub" // not what the file is called
	r.names = flagNames(parser.Model.Node)
	return parser, nil
}

// flagNames returns the names of all flags that a configuration file can set
// and that are no settings.
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

// nodes returns the commands below n, each before its own.
func nodes(n *kong.Node) []*kong.Node {
	var all []*kong.Node
	for _, child := range n.Children {
		all = append(append(all, child), nodes(child)...)
	}
	return all
}

// resolver finds the values of flags that are not on the command line: in the
// environment, else in the configuration file. The settings of serve are not its
// business, but those of [config.Load].
type resolver struct {
	environ []string
	names   []string         // of all flags that are no settings
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
		return nil, errors.New("takes one value, not a list, in the configuration file")
	}
	return values[0], nil
}

// lookUp finds a key in the configuration file, if there is one.
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

// settingMapper takes the value of a setting as it stands: [config.Load] reads
// it.
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
