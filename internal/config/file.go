package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"pubsub"
)

// maxFileBytes is the size of the largest configuration file.
const maxFileBytes = 1 << 20

// File is a configuration file: a flat YAML mapping of names to values. The nil
// File is one without any.
type File struct {
	path    string
	entries []entry
}

// entry is one key of a File.
type entry struct {
	name   string
	values []string
	list   bool
	line   int
}

// ReadFile reads the configuration file at path, of at most 1 MiB. The keys it
// may hold are known. Its error joins all that is wrong, each with its line.
func ReadFile(path string, known []string) (*File, error) {
	data, err := readAtMost(path, maxFileBytes)
	if err != nil {
		return nil, &Problem{"config", fmt.Sprintf("config %q cannot be read (%v); it takes the path of a YAML file", path, err)}
	}
	return parseFile(path, data, known)
}

// Get returns the values of a key, one if it is no list.
func (f *File) Get(name string) (values []string, ok bool) {
	if e := f.find(name); e != nil {
		return e.values, true
	}
	return nil, false
}

func (f *File) find(name string) *entry {
	if f == nil {
		return nil
	}
	i := slices.IndexFunc(f.entries, func(e entry) bool { return e.name == name })
	if i < 0 {
		return nil
	}
	return &f.entries[i]
}

// origin says where e stands.
func (f *File) origin(e *entry) Origin {
	return Origin{FromFile, f.path + ":" + strconv.Itoa(e.line)}
}

func parseFile(path string, data []byte, known []string) (*File, error) {
	f := &File{path: path}
	if len(data) > maxFileBytes {
		return nil, f.errorAt(1, "the file is over 1 MiB")
	}
	if line := tabIndented(data); line > 0 {
		return nil, f.errorAt(line, "a tab begins the line; YAML is indented with spaces")
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, second yaml.Node
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return f, nil
	} else if err != nil {
		return nil, f.syntaxError(err)
	}
	if err := dec.Decode(&second); err == nil {
		return nil, f.errorAt(second.Line, "a second YAML document begins; the file has one")
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
func (f *File) entry(key, value *yaml.Node, known []string) (entry, error) {
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
		return e, f.errorAt(e.line, fmt.Sprintf("%s stands here again, after line %d; keep one of them", e.name, first.line))
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
			return e, f.errorAt(n.Line, e.name+" takes a plain value, no mapping, list in a list or alias")
		}
		e.values = append(e.values, n.Value)
	}
	return e, nil
}

func (f *File) errorAt(line int, text string) error {
	return fmt.Errorf("%s:%d: %s", f.path, line, text)
}

var yamlError = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)`)

// syntaxError says in our words what the YAML parser found. Text of the file
// that the parser quotes is left out: it could be a secret.
func (f *File) syntaxError(err error) error {
	line, text := 1, "no valid YAML"
	if m := yamlError.FindStringSubmatch(err.Error()); m != nil {
		if n, err := strconv.Atoi(m[1]); err == nil {
			line = n
		}
		if !strings.Contains(m[2], "'") || strings.Contains(m[2], "':'") {
			text += ": " + m[2]
		}
	}
	return f.errorAt(line, text+`; write "key: value", with quotes around a value that begins with a sign`)
}

// tabIndented returns the number of the first line that begins with a tab, or
// with spaces and a tab; 0 if there is none.
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

// readAtMost reads a file; of one that is longer than limit it returns limit+1
// bytes. Its error says only the cause.
func readAtMost(path string, limit int64) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, cause(err)
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, limit+1))
	return data, cause(err)
}

// regular returns an error unless path is a regular file. The error's text follows the
// path.
func regular(path string) error {
	fi, err := os.Stat(path)
	switch {
	case err != nil:
		return fmt.Errorf("cannot be read (%w); it takes the path of a file", cause(err))
	case !fi.Mode().IsRegular():
		return errors.New("is not a regular file; only such a file is read again")
	}
	return nil
}

// cause takes the path and the operation off an error of package os.
func cause(err error) error {
	if pe := (*os.PathError)(nil); errors.As(err, &pe) {
		return pe.Err
	}
	return err
}
