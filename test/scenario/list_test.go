package scenario

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"testing"
)

// A scenario that is not listed would not run, and a mode that leaves a list out would not run
// the scenarios of that list.
func TestEveryModeRunsEveryScenario(t *testing.T) {
	var listed []string
	for _, f := range slices.Concat(All, Measured, MeasuredWithoutNATS, Clusters) {
		listed = append(listed, name(f))
	}
	dir := os.DirFS(".")
	declared := scenarios(t, dir)
	for _, s := range declared {
		if !slices.Contains(listed, s) {
			t.Errorf("%s is not in list.go", s)
		}
	}
	if len(listed) != len(declared) {
		t.Errorf("%d scenarios are listed, of %d", len(listed), len(declared))
	}
	for mode, lists := range map[string][]string{
		"parked":   {"All", "Measured", "MeasuredWithoutNATS"},
		"uring":    {"All", "Measured", "MeasuredWithoutNATS"},
		"portable": {"All", "Measured", "MeasuredWithoutNATS"},
		"nats":     {"All", "Measured"},
		"cluster":  {"Clusters"},
	} {
		text, err := fs.ReadFile(dir, path.Join(mode, mode+"_test.go"))
		if err != nil {
			t.Error(err)
		}
		for _, list := range lists {
			if !strings.Contains(string(text), "(t, scenario."+list+")") {
				t.Errorf("%s does not run scenario.%s", mode, list)
			}
		}
	}
}

// scenarios returns the names of the functions of this package that are scenarios.
func scenarios(t *testing.T, dir fs.FS) (names []string) {
	t.Helper()
	files, err := fs.Glob(dir, "*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := fs.ReadFile(dir, file)
		if err != nil {
			t.Fatal(err)
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, text, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range f.Decls {
			if f, ok := decl.(*ast.FuncDecl); ok && strings.HasPrefix(f.Name.Name, "Test") && !strings.HasSuffix(file, "_test.go") {
				names = append(names, f.Name.Name)
			}
		}
	}
	return names
}
