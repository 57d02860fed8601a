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

// A scenario that is not listed would not run, and neither would a mode without a call of Run.
func TestEveryModeRunsEveryScenario(t *testing.T) {
	var listed []string
	for _, f := range slices.Concat(scenarios, measured, measuredWithoutNATS, clusterScenarios) {
		listed = append(listed, name(f))
	}
	dir := os.DirFS(".")
	declared := declaredScenarios(t, dir)
	for _, s := range declared {
		if !slices.Contains(listed, s) {
			t.Errorf("%s is not in list.go", s)
		}
	}
	if len(listed) != len(declared) {
		t.Errorf("%d scenarios are listed, of %d", len(listed), len(declared))
	}
	for mode, run := range map[string]string{
		"parked": "Run", "uring": "Run", "portable": "Run", "nats": "Run", "cluster": "RunClusters",
	} {
		text, err := fs.ReadFile(dir, path.Join(mode, mode+"_test.go"))
		if err != nil || !strings.Contains(string(text), "scenario."+run+"(t)") {
			t.Errorf("%s does not call scenario.%s (%v)", mode, run, err)
		}
	}
}

// declaredScenarios returns the names of the functions of this package that are scenarios.
func declaredScenarios(t *testing.T, dir fs.FS) (names []string) {
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
