package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"pubsub"
)

// maxFileBytes is the size of the largest configuration file.
const maxFileBytes = 1 << 20

// Document is a configuration file: a flat YAML mapping of names to values. The nil
// Document has none.
type Document struct {
	path    string
	entries []entry
}

// entry is one key of a Document and its values.
type entry struct {
	name   string
	values []string
	list   bool
	line   int
}

// ReadFile reads the configuration file at path, of at most 1 MiB, which may have the known
// keys. The error joins all errors in the file, each with its line.
func ReadFile(path string, known []string) (*Document, error) {
	data, err := readAtMost(path, maxFileBytes)
	if err != nil {
		return nil, &Problem{"config", fmt.Sprintf("config %q cannot be read (%v); it takes the path of a YAML file", path, err)}
	}
	return parseFile(path, data, known)
}

// Get returns the values of a key; a value that is not a list is one. ok reports whether the
// file has the key.
func (f *Document) Get(name string) (values []string, ok bool) {
	if e := f.find(name); e != nil {
		return e.values, true
	}
	return nil, false
}

func (f *Document) find(name string) *entry {
	if f == nil {
		return nil
	}
	i := slices.IndexFunc(f.entries, func(e entry) bool { return e.name == name })
	if i < 0 {
		return nil
	}
	return &f.entries[i]
}

// origin returns the place of e.
func (f *Document) origin(e *entry) Origin {
	return Origin{FromFile, f.path + ":" + strconv.Itoa(e.line)}
}

func parseFile(path string, data []byte, known []string) (*Document, error) {
	f := &Document{path: path}
	if len(data) > maxFileBytes {
		return nil, f.errorAt(1, "the file is over 1 MiB")
	}
	if line := tabIndented(data); line > 0 {
		return nil, f.errorAt(line, "a tab begins the line; indent YAML with spaces")
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, second yaml.Node
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return f, nil
	} else if err != nil {
		return nil, f.syntaxError(err)
	}
	if err := dec.Decode(&second); err == nil {
		return nil, f.errorAt(second.Line, "a second YAML document begins; the file must have only one")
	} else if !errors.Is(err, io.EOF) {
		return nil, f.syntaxError(err)
	}
	root := doc.Content[0]
	if root.Kind == yaml.ScalarNode && root.Tag == "!!null" {
		return f, nil
	}
	if root.Kind != yaml.MappingNode {
		return nil, f.errorAt(root.Line, `the file takes lines of the form "key: value"`)
	}
	var errs []error
	for i := 0; i+1 < len(root.Content); i += 2 {
		e, err := f.entry(root.Content[i], root.Content[i+1], known)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		f.entries = append(f.entries, e)
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return f, nil
}

// entry reads one key and its value.
func (f *Document) entry(key, value *yaml.Node, known []string) (entry, error) {
	if key.Kind != yaml.ScalarNode {
		return entry{}, f.errorAt(key.Line, "a key must be a plain word")
	}
	e := entry{name: key.Value, line: key.Line}
	if !slices.Contains(known, e.name) {
		text := "unknown key " + strconv.Quote(pubsub.Printable(e.name))
		if near := Nearest(e.name, known); near != "" {
			text += "; did you mean " + near + "?"
		} else {
			text += `; the keys are the flags that --help lists, without "--"`
		}
		return e, f.errorAt(e.line, text)
	}
	if first := f.find(e.name); first != nil {
		return e, f.errorAt(e.line, fmt.Sprintf("%s is given again, after line %d; keep only one of them", e.name, first.line))
	}
	nodes := []*yaml.Node{value}
	if value.Kind == yaml.SequenceNode {
		e.list, nodes = true, value.Content
	}
	for _, n := range nodes {
		switch {
		case n.Kind == yaml.ScalarNode && n.Tag == "!!null":
			return e, f.errorAt(n.Line, e.name+` has no value; write "" for an empty one, or remove the line`)
		case n.Kind != yaml.ScalarNode:
			return e, f.errorAt(n.Line, e.name+" takes a plain value, not a mapping, an alias or a list in a list")
		}
		e.values = append(e.values, n.Value)
	}
	return e, nil
}

func (f *Document) errorAt(line int, text string) error {
	return fmt.Errorf("%s:%d: %s", f.path, line, text)
}

var yamlError = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)`)

// syntaxError rewords an error of the YAML parser. It leaves out text of the file that the
// parser quotes, because that could be a secret.
func (f *Document) syntaxError(err error) error {
	line, text := 1, "invalid YAML"
	if m := yamlError.FindStringSubmatch(err.Error()); m != nil {
		if n, err := strconv.Atoi(m[1]); err == nil {
			line = n
		}
		if !strings.Contains(m[2], "'") || strings.Contains(m[2], "':'") {
			text += ": " + m[2]
		}
	}
	return f.errorAt(line, text+`; write "key: value", with quotes around a value that begins with a special character`)
}

// tabIndented returns the number of the first line that begins with a tab, or with spaces
// and a tab, or 0 if no line does.
func tabIndented(data []byte) int {
	n := 0
	for line := range bytes.Lines(data) {
		n++
		if t := bytes.TrimLeft(line, " "); len(t) > 0 && t[0] == '\t' {
			return n
		}
	}
	return 0
}
