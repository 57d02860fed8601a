package main

import (
	"strings"

	"github.com/alecthomas/kong"
)

// arranged is a parsed command line.
type arranged struct {
	node       *kong.Node // the command, as far as it is known
	command    []string
	flags      []string // with their values: --name=value
	positional []string

	help       bool   // help was requested
	bare       string // the first flag that needs a value and has none
	unknown    string // the first flag that no command has
	foundFirst bool   // a positional argument precedes unknown
}

// arrange separates flags from the other arguments, so that flags may be anywhere, even
// before the command.
func arrange(root *kong.Node, args []string) *arranged {
	takesValue := make(map[string]bool) // for all flags
	for _, n := range append([]*kong.Node{root}, nodes(root)...) {
		for _, f := range n.Flags {
			takesValue["--"+f.Name] = !f.IsBool()
		}
	}
	a := &arranged{node: root}
	for i := 0; i < len(args); i++ {
		arg := args[i]
		switch {
		case arg == "--":
			a.positional = append(a.positional, args[i+1:]...)
			i = len(args)
		case arg == "-h" || arg == "--help" || arg == "-help" || arg == "-?":
			a.help = true
			a.flags = append(a.flags, "--help")
		case len(arg) > 1 && arg[0] == '-':
			name, _, valued := strings.Cut(arg, "=")
			takes, known := takesValue[name]
			if !known && a.unknown == "" {
				a.unknown, a.foundFirst = arg, len(a.positional) > 0
			}
			if takes && !valued {
				if i++; i == len(args) || len(args[i]) > 1 && args[i][0] == '-' {
					if a.bare == "" {
						a.bare = arg
					}
					i--
					continue
				}
				arg += "=" + args[i]
			}
			a.flags = append(a.flags, arg)
		default:
			if child := childNamed(a.node, arg); child != nil && len(a.positional) == 0 {
				a.node, a.command = child, append(a.command, arg)
				continue
			}
			a.positional = append(a.positional, arg)
		}
	}
	return a
}

// args returns the arguments in the parser's order: the command, flags, positional
// arguments.
func (a *arranged) args() []string {
	args := append(a.command, a.flags...)
	if len(a.positional) > 0 {
		args = append(append(args, "--"), a.positional...)
	}
	return args
}

// check returns an error if the command or the name of a flag is wrong.
func (a *arranged) check() error {
	if len(a.node.Children) > 0 && len(a.positional) > 0 && (a.unknown == "" || a.foundFirst) {
		return a.unknownCommand()
	}
	switch {
	case a.help:
		return nil
	case a.unknown != "":
		return a.unknownFlag(a.unknown)
	case a.bare != "":
		return &hintedError{usagef("%s needs a value; write %[1]s=VALUE if it begins with -", a.bare), usageHint(a.node)}
	case len(a.node.Children) > 0:
		return a.missingCommand()
	}
	for _, f := range a.flags {
		name, _, _ := strings.Cut(f, "=")
		if !has(a.node, strings.TrimPrefix(name, "--")) {
			return a.unknownFlag(f)
		}
	}
	return nil
}

// has reports whether a command or one of its parents has a flag of that name.
func has(n *kong.Node, name string) bool {
	for ; n != nil; n = n.Parent {
		for _, f := range n.Flags {
			if f.Name == name {
				return true
			}
		}
	}
	return false
}

func childNamed(n *kong.Node, name string) *kong.Node {
	for _, child := range n.Children {
		if child.Name == name {
			return child
		}
	}
	return nil
}
