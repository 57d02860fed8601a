package main

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/alecthomas/kong"

	"pubsub"
	"pubsub/internal/config"
)

// commandNames maps other names of commands to the real ones, by the path of the parent
// command. The values are relative to that path.
var commandNames = map[string]map[string]string{
	"pubsub": {
		"publish": "pub", "send": "pub", "post": "pub", "put": "pub", "emit": "pub",
		"subscribe": "sub", "listen": "sub", "watch": "sub", "tail": "sub", "get": "sub", "read": "sub", "consume": "sub",
		"jwt": "token", "sign": "token",
		"server": "serve", "run": "serve", "start": "serve", "broker": "serve", "daemon": "serve", "up": "serve", "dev": "serve --dev",
		"export": "store export", "backup": "store export", "dump": "store export", "import": "store import", "restore": "store import",
		"new": "key create", "ls": "key list", "rm": "key delete", "revoke": "key delete",
		"autocomplete": "completion",
	},
	"pubsub key": {
		"new": "create", "add": "create", "make": "create", "generate": "create", "gen": "create",
		"ls": "list", "show": "list", "rm": "delete", "remove": "delete", "del": "delete", "revoke": "delete",
	},
	"pubsub store": {
		"backup": "export", "dump": "export", "save": "export", "restore": "import", "load": "import",
	},
}

// flagMeanings maps other names of flags to the real ones, the most likely one first.
var flagMeanings = map[string][]string{
	"url": {"server"}, "uri": {"server"}, "host": {"server", "listen"}, "address": {"server", "listen"}, "addr": {"server", "listen"}, "broker": {"server"},
	"port": {"listen"}, "bind": {"listen"}, "p": {"listen"},
	"jwt": {"token"}, "auth": {"token", "admin-token"}, "bearer": {"token"}, "password": {"token", "admin-token"}, "token": {"admin-token"},
	"cacert": {"ca"}, "cafile": {"ca"}, "ca-file": {"ca"}, "tls-ca": {"ca"}, "insecure": {"ca"}, "k": {"ca"},
	"n": {"count"}, "limit": {"count"}, "max": {"count"},
	"exp": {"expires"}, "expiry": {"expires"}, "expire": {"expires", "ttl"}, "ttl": {"expires"}, "expires": {"ttl"},
	"file": {"lines"}, "input": {"lines"},
	"dir": {"data-dir"}, "data": {"data-dir"}, "memory": {"in-memory"}, "mem": {"in-memory"},
	"topic": {"read", "write"}, "t": {"read", "write"}, "publish": {"write"}, "subscribe": {"read"},
	"sub": {"subject"}, "user": {"subject"},
}

// unknownCommand returns the error for an unknown command.
func (a *arranged) unknownCommand() error {
	name := a.positional[0]
	return &hintedError{usagef("unknown command %s%s", pubsub.Printable(name), didYouMean(a.similarCommand(name))), usageHint(a.node)}
}

// similarCommand returns the command that the user probably meant, relative to a.node, or
// "".
func (a *arranged) similarCommand(name string) string {
	name = strings.ToLower(name)
	if known, ok := commandNames[a.node.FullPath()][name]; ok {
		return known
	}
	var children []string
	for _, child := range a.node.Children {
		children = append(children, child.Name)
		if childNamed(child, name) != nil { // "create" means "key create"
			return child.Name + " " + name
		}
	}
	for _, child := range children {
		if len(name) > 1 && strings.HasPrefix(child, name) || strings.HasPrefix(name, child) {
			return child
		}
	}
	return config.Nearest(name, children)
}

// missingCommand returns the error for a command line without a command.
func (a *arranged) missingCommand() error {
	hint := usageHint(a.node)
	if len(a.flags) > 0 {
		if owners := ownersOf(a.node, flagName(a.flags[0])); owners != "" {
			hint = owners
		}
	}
	return &hintedError{usagef("missing command"), hint}
}

// flagName returns the name of a flag without its dashes and its value.
func flagName(flag string) string {
	name, _, _ := strings.Cut(strings.TrimLeft(flag, "-"), "=")
	return name
}

// unknownFlag returns the error for a flag that a.node does not have.
func (a *arranged) unknownFlag(flag string) error {
	shown, _, _ := strings.Cut(flag, "=")
	name := strings.ToLower(flagName(flag))
	similar := a.similarFlags(name)
	err := usagef("unknown flag %s%s", pubsub.Printable(shown), didYouMean(similar...))
	hint := usageHint(a.node)
	if similar == nil {
		hint = a.flagHint(shown, name)
	}
	return &hintedError{err, hint}
}

// flagHint returns a hint about an unknown flag without a similar one.
func (a *arranged) flagHint(shown, name string) string {
	topics := slices.Contains([]string{"t", "topic", "topics"}, name)
	message := slices.Contains([]string{"m", "message", "msg", "d", "data", "body", "payload"}, name)
	owners := ownersOf(a.root(), name)
	switch path := a.node.FullPath(); {
	case topics && path == "pubsub sub":
		return "Topics need no flag: pubsub sub TOPIC..."
	case (topics || message) && path == "pubsub pub":
		return "Topic and message need no flags: pubsub pub TOPIC MESSAGE"
	case topics:
		return "Topics need no flag and follow a command: pubsub sub TOPIC..."
	case numeric.MatchString(shown) && path == "pubsub pub":
		return "Write -- before a message that begins with a dash: pubsub pub TOPIC -- " + shown
	case (name == "v" || name == "version") && path != "pubsub version":
		return `"pubsub version" shows the version.`
	case owners != "":
		return owners
	}
	return usageHint(a.node)
}

var numeric = regexp.MustCompile(`^-[0-9.]+$`)

func (a *arranged) root() *kong.Node {
	n := a.node
	for n.Parent != nil {
		n = n.Parent
	}
	return n
}

// ownersOf returns a sentence that names the commands below n with a flag of that name, or
// "" if there are none.
func ownersOf(n *kong.Node, name string) string {
	var owners []string
	for _, below := range nodes(n) {
		if slices.ContainsFunc(below.Flags, func(f *kong.Flag) bool { return f.Name == name }) {
			owners = append(owners, fmt.Sprintf("%q", below.FullPath()))
		}
	}
	if owners == nil {
		return ""
	}
	return fmt.Sprintf("--%s is a flag of %s.", name, strings.Join(owners, " and "))
}

// similarFlags returns up to three flags of a.node that the user may have meant, with their
// dashes, or nil.
func (a *arranged) similarFlags(name string) []string {
	var all, similar []string
	for n := a.node; n != nil; n = n.Parent { // the command's own flags first
		for _, f := range n.Flags {
			all = append(all, f.Name)
		}
	}
	find := func(like func(flag string) bool) {
		if similar != nil {
			return
		}
		for _, flag := range all {
			if like(flag) && len(similar) < 3 {
				similar = append(similar, "--"+flag)
			}
		}
	}
	find(func(flag string) bool { return flag == name }) // -dev
	find(func(flag string) bool {
		return len(a.node.Children) == 0 && slices.Contains(flagMeanings[name], flag)
	})
	find(func(flag string) bool {
		return len(name) > 1 && strings.HasPrefix(flag, name) || len(flag) > 2 && strings.HasPrefix(name, flag)
	})
	if similar == nil && len(name) > 2 {
		if near := config.Nearest(name, all); near != "" {
			similar = []string{"--" + near}
		}
	}
	if !slices.Contains([]string{"t", "m", "d", "v"}, name) { // flagHint has hints for these
		find(func(flag string) bool { return len(name) == 1 && strings.HasPrefix(flag, name) })
	}
	return similar
}

// didYouMean returns a question that suggests the given names, to be appended to an error,
// or "" if all are empty.
func didYouMean(all ...string) string {
	var quoted []string
	for _, s := range all {
		if s != "" {
			quoted = append(quoted, fmt.Sprintf("%q", s))
		}
	}
	if quoted == nil {
		return ""
	}
	return ", did you mean " + strings.Join(quoted, " or ") + "?"
}

// plainWords rewords the parser's messages like the other errors.
var plainWords = []struct {
	from *regexp.Regexp
	to   string
}{
	{regexp.MustCompile(`^expected "([^"]*)"$`), "missing $1"},
	{regexp.MustCompile(`^missing positional arguments `), "missing "},
	{regexp.MustCompile(`^(missing [^ ]+) \.\.\.$`), "$1"},
	{regexp.MustCompile(`expected a valid \d+ bit u?int but got (".*")$`), "takes a whole number, not $1"},
	{regexp.MustCompile(`expected a float but got (".*?")(?: \(.*\))?$`), "takes a number, not $1"},
	{regexp.MustCompile(`bool value must be true, 1, yes, false, 0 or no but got (".*")$`), "takes true or false, not $1"},
}

// fileError is an error of the configuration file. The parser would attribute it to the
// first flag that the file may contain.
type fileError struct{ error }

// explain converts an error of the parser to a usage error.
func explain(err error) error {
	var file *fileError
	if errors.As(err, &file) {
		return &usageError{file.error}
	}
	var parse *kong.ParseError
	if !errors.As(err, &parse) || parse.Context == nil || parse.Context.Selected() == nil {
		return &usageError{err}
	}
	node := parse.Context.Selected()
	text := err.Error()
	for _, arg := range node.Positional {
		text = strings.ReplaceAll(text, "<"+arg.Name+">", arg.Name)
	}
	for _, w := range plainWords {
		text = w.from.ReplaceAllString(text, w.to)
	}
	hint := usageHint(node)
	if strings.HasPrefix(text, "unexpected argument ") {
		switch argument := strings.TrimPrefix(text, "unexpected argument "); {
		case node.Name == "pub":
			hint = "Quote a message of several words: pubsub pub TOPIC 'SEVERAL WORDS'"
		case node.Name == "token":
			hint = "Topics need --read or --write: pubsub token --read TOPIC"
		case argument == "true" || argument == "false":
			hint = "Write the value of such a flag after =, for example --sse=" + argument + "."
		}
	}
	return &hintedError{usagef("%s", text), hint}
}

// usageHint returns the synopsis of a command and the command line that shows its help.
func usageHint(n *kong.Node) string {
	return fmt.Sprintf("Usage: %s; see %q.", usage(n), n.FullPath()+" --help")
}
