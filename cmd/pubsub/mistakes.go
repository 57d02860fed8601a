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

// flagMeanings maps other names of flags to the real ones, the most likely first.
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

// unknownCommand returns the error of an unknown command.
func (a *arranged) unknownCommand() error {
	name := a.positional[0]
	return &hintedError{usagef("unknown command %s%s", pubsub.Printable(name), didYouMean(a.commandMeant(name))), usageHint(a.node)}
}

// commandMeant returns the command that is probably meant, relative to a.node.
func (a *arranged) commandMeant(name string) string {
	name = strings.ToLower(name)
	if known, ok := commandNames[a.node.FullPath()][name]; ok {
		return known
	}
	var children []string
	for _, child := range a.node.Children {
		children = append(children, child.Name)
		if childNamed(child, name) != nil { // "create" for "key create"
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

// missingCommand returns the error of a command line without a command.
func (a *arranged) missingCommand() error {
	hint := usageHint(a.node)
	if len(a.flags) > 0 {
		if owners := ownersOf(a.node, flagName(a.flags[0])); owners != "" {
			hint = owners
		}
	}
	return &hintedError{usagef("a command is missing"), hint}
}

func flagName(flag string) string {
	name, _, _ := strings.Cut(strings.TrimLeft(flag, "-"), "=")
	return name
}

// unknownFlag returns the error of a flag that a.node does not have.
func (a *arranged) unknownFlag(flag string) error {
	shown, _, _ := strings.Cut(flag, "=")
	name := strings.ToLower(flagName(flag))
	meant := a.flagsMeant(name)
	err := usagef("unknown flag %s%s", pubsub.Printable(shown), didYouMean(meant...))
	hint := usageHint(a.node)
	if meant == nil {
		hint = a.flagHint(shown, name)
	}
	return &hintedError{err, hint}
}

// flagHint says what to use in place of an unknown flag.
func (a *arranged) flagHint(shown, name string) string {
	topics := slices.Contains([]string{"t", "topic", "topics"}, name)
	message := slices.Contains([]string{"m", "message", "msg", "d", "data", "body", "payload"}, name)
	owners := ownersOf(a.root(), name)
	switch path := a.node.FullPath(); {
	case topics && path == "pubsub sub":
		return "A topic stands without a flag: pubsub sub TOPIC..."
	case (topics || message) && path == "pubsub pub":
		return "Topic and message stand without flags: pubsub pub TOPIC MESSAGE"
	case topics:
		return "A topic stands without a flag, after a command: pubsub sub TOPIC..."
	case numeric.MatchString(shown) && path == "pubsub pub":
		return "A message that begins with a dash comes after two: pubsub pub TOPIC -- " + shown
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

// ownersOf returns a sentence with the commands below n that have the flag of that name,
// or "" if none has.
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

// flagsMeant returns the flags of a.node that may be meant, with their dashes, or nil.
func (a *arranged) flagsMeant(name string) []string {
	var all, meant []string
	for n := a.node; n != nil; n = n.Parent { // its own first
		for _, f := range n.Flags {
			all = append(all, f.Name)
		}
	}
	find := func(like func(flag string) bool) {
		if meant != nil {
			return
		}
		for _, flag := range all {
			if like(flag) && len(meant) < 3 {
				meant = append(meant, "--"+flag)
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
	if meant == nil && len(name) > 2 {
		if near := config.Nearest(name, all); near != "" {
			meant = []string{"--" + near}
		}
	}
	if !slices.Contains([]string{"t", "m", "d", "v"}, name) { // these have other meanings: see flagHint
		find(func(flag string) bool { return len(name) == 1 && strings.HasPrefix(flag, name) })
	}
	return meant
}

// didYouMean returns a question to append to an error about an unknown name. It is empty
// if nothing is likely.
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

// plainWords translates the parser's messages into the words of the other errors.
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

// fileError is an error of the configuration file. The parser reports it as an error of
// the first flag that the file could contain.
type fileError struct{ error }

// explain turns an error of the parser into a usage error.
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
			hint = "A message of several words takes quotes: pubsub pub TOPIC 'SEVERAL WORDS'"
		case node.Name == "token":
			hint = "Topics come with --read or --write: pubsub token --read TOPIC"
		case argument == "true" || argument == "false":
			hint = "A flag is switched with a sign: --sse=" + argument
		}
	}
	return &hintedError{usagef("%s", text), hint}
}

// usageHint returns the usage of a command, and the command that shows its help.
func usageHint(n *kong.Node) string {
	return fmt.Sprintf("Usage: %s; see %q.", usage(n), n.FullPath()+" --help")
}
