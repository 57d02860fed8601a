package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

// errShown means that the help, or the error, has already been printed.
var errShown = errors.New("shown already")

// helpFlag is the flag --help.
type helpFlag bool

// BeforeReset prints the help of the command before the rest of the command line is
// checked.
func (helpFlag) BeforeReset(ctx *kong.Context) error {
	if err := ctx.PrintUsage(false); err != nil {
		return err
	}
	return errShown
}

// printHelp is the [kong.HelpPrinter].
func printHelp(_ kong.HelpOptions, ctx *kong.Context) error {
	node := ctx.Selected()
	if node == nil {
		node = ctx.Model.Node
	}
	_, err := io.WriteString(ctx.Stdout, helpText(node))
	return err
}

// usage returns the synopsis of a command.
func usage(n *kong.Node) string {
	s := n.FullPath()
	for _, arg := range n.Positional {
		name := arg.Name
		if arg.IsCumulative() {
			name += "..."
		}
		if !arg.Required {
			name = "[" + name + "]"
		}
		s += " " + name
	}
	if len(n.Children) > 0 {
		s += " COMMAND"
	}
	return s + " [flags]"
}

// helpWidth is the width of help texts in columns.
const helpWidth = 80

// helpText returns the help of a command, or of the program for the root node.
func helpText(n *kong.Node) string {
	var b strings.Builder
	if n.Type == kong.ApplicationNode {
		b.WriteString("pubsub is a publish/subscribe broker: server-sent events, HTTP, MQTT 5.\n\n")
	} else {
		b.WriteString(n.Help + "\n\n")
	}
	fmt.Fprintf(&b, "Usage: %s\n", usage(n))
	if len(n.Children) > 0 {
		b.WriteString("\nCommands:\n")
		var rows [][2]string
		for _, child := range n.Children {
			rows = append(rows, [2]string{child.Name, child.Help})
		}
		writeRows(&b, rows)
	}
	if n.Type == kong.ApplicationNode {
		b.WriteString("\nTo try it out, run \"pubsub serve --dev\".\nFor help on a command, run \"pubsub COMMAND --help\".\n")
		return b.String()
	}
	if n.Detail != "" {
		b.WriteString("\n" + strings.TrimSpace(n.Detail) + "\n")
	}
	var rows [][2]string
	for _, arg := range n.Positional {
		rows = append(rows, [2]string{arg.Name, arg.Help})
	}
	if rows != nil {
		b.WriteString("\nArguments:\n")
		writeRows(&b, rows)
	}
	writeFlags(&b, n)
	return b.String()
}

// writeFlags writes the flags of a command in their groups, its own flags first.
func writeFlags(b *strings.Builder, n *kong.Node) {
	levels := n.AllFlags(true)
	slices.Reverse(levels)
	var titles []string
	groups := make(map[string][][2]string)
	for _, f := range slices.Concat(levels...) {
		title := "Flags"
		if f.Group != nil {
			title = f.Group.Title
		} else if f.Name == "config" || f.Name == "help" {
			title = "Global flags"
		}
		if groups[title] == nil {
			titles = append(titles, title)
		}
		left := "--" + f.Name
		if f.Short != 0 {
			left = fmt.Sprintf("-%c, %s", f.Short, left)
		}
		if !f.IsBool() {
			left += "=" + f.PlaceHolder
		} else if f.Default == "true" {
			left += "=false"
		}
		text := f.Help
		if f.Default != "" && f.Default != "false" {
			text += " Default " + f.Default + "."
		}
		groups[title] = append(groups[title], [2]string{left, text})
	}
	for _, title := range titles {
		fmt.Fprintf(b, "\n%s:\n", title)
		writeRows(b, groups[title])
	}
}

// writeRows writes two columns. It wraps the right one.
func writeRows(b *strings.Builder, rows [][2]string) {
	const indent, gap, widest = 2, 2, 26
	width := 0
	for _, row := range rows {
		if len(row[0]) <= widest {
			width = max(width, len(row[0]))
		}
	}
	margin := strings.Repeat(" ", indent+width+gap)
	for _, row := range rows {
		fmt.Fprintf(b, "  %-*s", width, row[0])
		if len(row[0]) > width {
			b.WriteString("\n" + strings.Repeat(" ", indent+width))
		}
		line := "  "
		column := len(margin) - gap
		for word := range strings.FieldsSeq(row[1]) {
			if column+len(line)+len(word) > helpWidth && strings.TrimSpace(line) != "" {
				b.WriteString(strings.TrimRight(line, " ") + "\n")
				line, column = margin, 0
			}
			line += word + " "
		}
		b.WriteString(strings.TrimRight(line, " ") + "\n")
	}
}
