package pubsub_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// Every test that a document names in backquotes exists, and so does each subtest: as a string
// in the code that the test runs, or as the name of a file in its package's testdata.
func TestDocsNameTestsThatExist(t *testing.T) {
	code := readCode(t, os.DirFS("."))
	var docs []string
	for _, pattern := range []string{"*.md", "*/*.md"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		docs = append(docs, found...)
	}
	names := 0
	for _, doc := range docs {
		text, err := os.ReadFile(doc)
		if err != nil {
			t.Fatal(err)
		}
		for i, line := range strings.Split(string(text), "\n") {
			for _, name := range testNames(line) {
				names++
				if problem := code.problem(name); problem != "" {
					t.Errorf("%s:%d: `%s`: %s", doc, i+1, name, problem)
				}
			}
		}
	}
	if names < 500 {
		t.Errorf("only %d names found in %q: the parser must be missing some", names, docs)
	}
}

// The check above reports each kind of wrong name, and only those.
func TestDocsCheckFindsWrongNames(t *testing.T) {
	dir := t.TempDir()
	for file, text := range map[string]string{
		"go.mod": "module m\n",
		"a/a_test.go": `package a_test
			func TestOne(t *testing.T) { each(t); kit.Run(t) }
			func TestOneMore(t *testing.T) { each(t) }
			func TestTwo(t *testing.T) { t.Run("the only one", nil) }
			func each(t *testing.T) { for _, m := range modes { t.Run(m.name, nil) } }
			var modes = []mode{{"first mode"}, {"second"}}
			func FuzzThree(f *testing.F) {}
			func (s suite) TestMethod() {}`,
		"a/testdata/deep/script.txt": "",
		"kit/kit.go": `package kit
			func Run(t *testing.T) { t.Run("Store", func(t *testing.T) { t.Run("TTL", nil) }) }`,
		"b/main_test.go": "package main\nfunc TestCommand(t *testing.T) {}",
	} {
		file = filepath.Join(dir, file)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	code := readCode(t, os.DirFS(dir))
	for _, tt := range []struct{ name, problem string }{
		{"a.TestOne", ""},
		{"TestOne", ""},
		{"a.FuzzThree", ""},
		{"b.TestCommand", ""},
		{"a.TestOne/first_mode", ""},
		{"a.TestOne/Store/TTL", ""},
		{"a.TestOne*/second", ""},
		{"a.TestTwo/the_only_one", ""},
		{"a.TestTwo/script", ""},
		{"a.TestTwo…", ""},
		{"a.TestTwo/NAME", ""},
		{"package.TestName/case", ""},

		{"a.TestFour", "no such test"},
		{"TestFour", "no such test"},
		{"b.TestOne", "no such test"},
		{"c.TestOne", "no such test"},
		{"a.TestMethod", "no such test"},
		{"a.TestFour*", "no such test"},
		{"a.TestTwo/first_mode", `no subtest "first_mode"`},
		{"a.TestTwo/the_only", `no subtest "the_only"`},
		{"a.TestOneMore/Store", `no subtest "Store"`},
		{"a.TestOne*/Store", `no subtest "Store"`},
		{"a.TestOne/Store/ttl", `no subtest "ttl"`},
		{"a.TestOne()", "not the name of a test"},
		{"internal/a.TestOne", "not the name of a test"},
	} {
		if got := code.problem(tt.name); got != tt.problem {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.problem)
		}
	}
	line := "| `a.TestOne`, see `TestTwo/x_y`; `go test -run TestThree` and a TestFour | `a.FuzzThree`: `b` `testing` |"
	if got := strings.Join(testNames(line), " "); got != "a.TestOne TestTwo/x_y a.FuzzThree" {
		t.Errorf("names found: %s", got)
	}
}

var (
	quoted   = regexp.MustCompile("`([^` ]*\\b(?:Test|Fuzz|Benchmark)[A-Z][^` ]*)`")
	testName = regexp.MustCompile(`^(?:([a-z0-9]+)\.)?((?:Test|Fuzz|Benchmark)[A-Z]\w*)(\*|…)?((?:/[^/]+)*)$`)
)

// testNames returns the names of tests that a line of a document has in backquotes. Backquotes
// around several words are a command.
func testNames(line string) (names []string) {
	for _, m := range quoted.FindAllStringSubmatch(line, -1) {
		names = append(names, m[1])
	}
	return names
}

// code is what the Go files of a module declare, by package. Commands go by their directory.
type code map[string]*declared

// declared is what the files of one package, its tests included, declare.
type declared struct {
	strings map[string][]string // the string literals in each function, method or variable
	uses    map[string][]symbol // the names that occur in it
	tests   map[string]bool
	files   map[string]bool // in testdata, without their extensions
}

// symbol is a name in a package.
type symbol struct{ pkg, name string }

// problem says what is wrong with the name of a test in a document.
func (c code) problem(name string) string {
	m := testName.FindStringSubmatch(name)
	if m == nil {
		return "not the name of a test"
	}
	pkg, test, isPrefix := m[1], m[2], m[3] != ""
	if pkg == "package" { // a keyword, which stands for any package
		return ""
	}
	found := false
	for p, d := range c {
		if pkg != "" && p != pkg {
			continue
		}
		for declared := range d.tests {
			if declared != test && !(isPrefix && strings.HasPrefix(declared, test)) {
				continue
			}
			found = true
			for _, sub := range strings.Split(m[4], "/")[1:] {
				if sub != "NAME" && !d.files[sub] && !c.hasString(symbol{p, declared}, sub, map[symbol]bool{}) {
					return "no subtest " + strconv.Quote(sub)
				}
			}
		}
	}
	if !found {
		return "no such test"
	}
	return ""
}

// hasString reports whether a string that package testing would turn into the name sub occurs
// in s, or in anything that s uses.
func (c code) hasString(s symbol, sub string, visited map[symbol]bool) bool {
	d := c[s.pkg]
	if d == nil || visited[s] {
		return false
	}
	visited[s] = true
	for _, literal := range d.strings[s.name] {
		if strings.ReplaceAll(literal, " ", "_") == sub {
			return true
		}
	}
	for _, used := range d.uses[s.name] {
		if c.hasString(used, sub, visited) {
			return true
		}
	}
	return false
}

// readCode reads all Go files of a module.
func readCode(t *testing.T, module fs.FS) code {
	t.Helper()
	c := code{}
	err := fs.WalkDir(module, ".", func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			if err == nil && file != "." && (d.Name()[0] == '.' || strings.HasSuffix(d.Name(), "_modules")) {
				return fs.SkipDir
			}
			return err
		}
		if dir, inTestdata, ok := strings.Cut(file, "/testdata/"); ok {
			name := filepath.Base(inTestdata)
			c.of(filepath.Base(dir)).files[strings.TrimSuffix(name, filepath.Ext(name))] = true
			return nil
		}
		if filepath.Ext(file) != ".go" {
			return nil
		}
		text, err := fs.ReadFile(module, file)
		if err != nil {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, text, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		pkg := strings.TrimSuffix(f.Name.Name, "_test")
		if pkg == "main" {
			pkg = filepath.Base(filepath.Dir(file))
		}
		c.of(pkg).add(pkg, f)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (c code) of(pkg string) *declared {
	if c[pkg] == nil {
		c[pkg] = &declared{map[string][]string{}, map[string][]symbol{}, map[string]bool{}, map[string]bool{}}
	}
	return c[pkg]
}

// add adds what a file declares.
func (d *declared) add(pkg string, f *ast.File) {
	for _, decl := range f.Decls {
		switch decl := decl.(type) {
		case *ast.FuncDecl:
			d.addNames(pkg, decl.Name.Name, decl)
			if decl.Recv == nil {
				d.tests[decl.Name.Name] = true
			}
		case *ast.GenDecl:
			for _, spec := range decl.Specs {
				if values, ok := spec.(*ast.ValueSpec); ok {
					for _, name := range values.Names {
						d.addNames(pkg, name.Name, values)
					}
				}
			}
		}
	}
}

// addNames adds the strings and names that occur in a declaration.
func (d *declared) addNames(pkg, name string, decl ast.Node) {
	ast.Inspect(decl, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.BasicLit:
			if s, err := strconv.Unquote(n.Value); err == nil && n.Kind == token.STRING {
				d.strings[name] = append(d.strings[name], s)
			}
		case *ast.SelectorExpr:
			if x, ok := n.X.(*ast.Ident); ok { // a package, perhaps
				d.uses[name] = append(d.uses[name], symbol{x.Name, n.Sel.Name})
			}
		case *ast.Ident:
			d.uses[name] = append(d.uses[name], symbol{pkg, n.Name})
		}
		return true
	})
}
