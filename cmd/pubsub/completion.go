package main

import (
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

type completionCmd struct {
	Shell string `arg:"" name:"SHELL" enum:"bash,zsh,fish" help:"bash, zsh or fish."`
}

// Help implements [kong.HelpProvider].
func (*completionCmd) Help() string {
	return `
Examples:
  source <(pubsub completion bash)
  pubsub completion zsh > "${fpath[1]}/_pubsub"
  pubsub completion fish > ~/.config/fish/completions/pubsub.fish`
}

// Run prints the completion script.
func (c *completionCmd) Run(p *process, ctx *kong.Context) error {
	write := map[string]func(*kong.Node) string{"bash": bashCompletion, "zsh": zshCompletion, "fish": fishCompletion}[c.Shell]
	_, err := io.WriteString(p.stdout, write(ctx.Model.Node))
	return err
}

// word is a command, a flag or a value that completes a command line.
type word struct{ text, help string }

// words returns the subcommands and the flags that can follow a command.
func words(n *kong.Node) (commands, flags []word) {
	for _, child := range n.Children {
		commands = append(commands, word{child.Name, child.Help})
	}
	for _, level := range n.AllFlags(true) {
		for _, f := range level {
			flags = append(flags, word{"--" + f.Name, f.Help})
		}
	}
	return commands, flags
}

// choices returns the fixed values of the flags of n, by flag, and those of its argument
// under "".
func choices(n *kong.Node) map[string][]string {
	all := make(map[string][]string)
	for _, arg := range n.Positional {
		if arg.Enum != "" {
			all[""] = arg.EnumSlice()
		}
	}
	for _, f := range n.Flags {
		if strings.Contains(f.PlaceHolder, "|") {
			all["--"+f.Name] = strings.Split(f.PlaceHolder, "|")
		}
	}
	return all
}

// pathPattern returns the pattern of a case statement, for bash and zsh, that matches the
// path of every command.
func pathPattern(root *kong.Node) string {
	var paths []string
	for _, n := range nodes(root) {
		paths = append(paths, fmt.Sprintf("%q", n.FullPath()))
	}
	return strings.Join(paths, "|")
}

// valueCases returns the cases of a case statement, for bash and zsh, for a command's path
// followed by a flag with fixed values. complete returns the command that offers the values.
func valueCases(root *kong.Node, complete func(values string) string) string {
	var b strings.Builder
	for _, n := range nodes(root) {
		for flag, values := range sorted(choices(n)) {
			if flag != "" {
				fmt.Fprintf(&b, "    %q)\n        %s\n        return ;;\n", n.FullPath()+" "+flag, complete(strings.Join(values, " ")))
			}
		}
	}
	return b.String()
}

func bashCompletion(root *kong.Node) string {
	var b strings.Builder
	fmt.Fprintf(&b, `# Completions of pubsub for bash.
_pubsub() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}
    local path=pubsub words= i
    if [[ $cur == = ]]; then
        cur=
    elif [[ $prev == = ]]; then
        prev=${COMP_WORDS[COMP_CWORD-2]}
    fi
    for ((i = 1; i < COMP_CWORD; i++)); do
        case "$path ${COMP_WORDS[i]}" in
        %s)
            path="$path ${COMP_WORDS[i]}" ;;
        esac
    done
    case "$path $prev" in
`, pathPattern(root))
	b.WriteString(valueCases(root, func(values string) string { return fmt.Sprintf(`COMPREPLY=($(compgen -W %q -- "$cur"))`, values) }))
	b.WriteString("    esac\n    case \"$path\" in\n")
	for _, n := range append([]*kong.Node{root}, nodes(root)...) {
		commands, flags := words(n)
		var all []string
		for _, w := range append(commands, flags...) {
			all = append(all, w.text)
		}
		all = append(choices(n)[""], all...)
		fmt.Fprintf(&b, "    %q) words=%q ;;\n", n.FullPath(), strings.Join(all, " "))
	}
	b.WriteString(`    esac
    COMPREPLY=($(compgen -W "$words" -- "$cur"))
}
complete -o default -F _pubsub pubsub
`)
	return b.String()
}

func zshCompletion(root *kong.Node) string {
	var b strings.Builder
	fmt.Fprintf(&b, `#compdef pubsub
# Completions of pubsub for zsh.
_pubsub() {
    local path_=pubsub word
    local -a commands flags
    for word in "${(@)words[2,CURRENT-1]}"; do
        case "$path_ $word" in
        %s)
            path_="$path_ $word" ;;
        esac
    done
    case "$path_ ${words[CURRENT-1]}" in
`, pathPattern(root))
	b.WriteString(valueCases(root, func(values string) string { return "compadd -- " + values }))
	b.WriteString("    esac\n    case \"$path_\" in\n")
	for _, n := range append([]*kong.Node{root}, nodes(root)...) {
		commands, flags := words(n)
		for _, v := range choices(n)[""] {
			commands = append(commands, word{v, ""})
		}
		fmt.Fprintf(&b, "    %q)\n", n.FullPath())
		for name, list := range sorted(map[string][]word{"commands": commands, "flags": flags}) {
			if len(list) == 0 {
				continue
			}
			fmt.Fprintf(&b, "        %s=(\n", name)
			for _, w := range list {
				text := w.text
				if w.help != "" {
					text += ":" + strings.ReplaceAll(w.help, ":", `\:`)
				}
				fmt.Fprintf(&b, "            %s\n", singleQuoted(text, `'\''`))
			}
			b.WriteString("        )\n")
		}
		b.WriteString("        ;;\n")
	}
	b.WriteString(`    esac
    if [[ ${words[CURRENT]} == -* ]]; then
        _describe flag flags
    elif (( $#commands )); then
        _describe command commands
    else
        _default
    fi
}
if [[ $funcstack[1] == _pubsub ]]; then
    _pubsub "$@"
else
    compdef _pubsub pubsub
fi
`)
	return b.String()
}

func fishCompletion(root *kong.Node) string {
	var b strings.Builder
	b.WriteString("# Completions of pubsub for fish.\nfunction __pubsub_path\n    set -l path pubsub\n    for word in (commandline -opc)[2..]\n        switch \"$path $word\"\n            case")
	for _, n := range nodes(root) {
		b.WriteString(" " + singleQuoted(n.FullPath(), `\'`))
	}
	b.WriteString("\n                set path \"$path $word\"\n        end\n    end\n    test \"$path\" = \"$argv\"\nend\n")
	for _, n := range append([]*kong.Node{root}, nodes(root)...) {
		when := fmt.Sprintf("complete -c pubsub -n %s", singleQuoted("__pubsub_path "+n.FullPath(), `\'`))
		commands, _ := words(n)
		for _, w := range commands {
			fmt.Fprintf(&b, "%s -f -a %s -d %s\n", when, w.text, singleQuoted(w.help, `\'`))
		}
		values := choices(n)
		if arg := values[""]; arg != nil {
			fmt.Fprintf(&b, "%s -f -a %s\n", when, singleQuoted(strings.Join(arg, " "), `\'`))
		}
		for _, level := range n.AllFlags(true) {
			for _, f := range level {
				takes := ""
				if v := values["--"+f.Name]; v != nil {
					takes = " -x -a " + singleQuoted(strings.Join(v, " "), `\'`)
				} else if !f.IsBool() {
					takes = " -r"
				}
				fmt.Fprintf(&b, "%s -l %s%s -d %s\n", when, f.Name, takes, singleQuoted(f.Help, `\'`))
			}
		}
	}
	return b.String()
}

// singleQuoted quotes s for a shell that writes a quote within quotes as given.
func singleQuoted(s, quote string) string {
	return "'" + strings.ReplaceAll(s, "'", quote) + "'"
}

// sorted ranges over a map in the order of its keys.
func sorted[V any](m map[string]V) iter.Seq2[string, V] {
	return func(yield func(string, V) bool) {
		for _, k := range slices.Sorted(maps.Keys(m)) {
			if !yield(k, m[k]) {
				return
			}
		}
	}
}
