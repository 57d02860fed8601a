package pubsub_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"pubsub/internal/testkit"
)

const module = "pubsub"

// layout is the map of this module: a package may import packages of a lower level that are
// listed for it. Tests may import any package. Every package must be listed.
var layout = map[string]struct {
	level   int
	ours    []string // the packages of this module that it may import, besides the root
	foreign []string // the other modules that it may import
}{
	".": {level: 0},

	"internal/hub":                     {level: 1},
	"internal/sse":                     {level: 1},
	"internal/mqtt":                    {level: 1},
	"internal/park":                    {level: 1, foreign: []string{"golang.org/x/sys"}},
	"internal/ws":                      {level: 1, foreign: []string{"github.com/gobwas/ws"}},
	"internal/token":                   {level: 1, foreign: []string{"github.com/golang-jwt/jwt/v5"}},
	"internal/rlimit":                  {level: 0},
	"internal/config":                  {level: 1, foreign: []string{"go.yaml.in/yaml/v3"}},
	"internal/backplane/local":         {level: 1, ours: []string{"internal/rlimit"}, foreign: []string{"github.com/cockroachdb/pebble/v2"}},
	"internal/backplane/nats/layout":   {level: 1, foreign: []string{"github.com/nats-io/nats.go"}},
	"internal/backplane/backplanetest": {level: 1},
	"internal/testkit":                 {level: 1},
	"internal/transfer":                {level: 1},
	"internal/session":                 {level: 2, ours: []string{"internal/mqtt"}},
	"internal/testkit/process":         {level: 2, ours: []string{"internal/testkit"}, foreign: []string{"golang.org/x/sys"}},
	"internal/testkit/wire":            {level: 2, ours: []string{"internal/mqtt", "internal/testkit"}},
	"internal/testkit/history":         {level: 1},
	"internal/testkit/natsserver": {
		level:   3,
		ours:    []string{"internal/testkit", "internal/testkit/process"},
		foreign: []string{"github.com/nats-io/nats-server/v2"},
	},
	"internal/backplane/nats": {
		level: 2, ours: []string{"internal/backplane/nats/layout"}, foreign: []string{"github.com/nats-io/nats.go"},
	},
	"internal/client": {
		level:   2,
		ours:    []string{"internal/mqtt"},
		foreign: []string{"github.com/coder/websocket"},
	},
	"internal/conn": {level: 2, ours: []string{"internal/hub", "internal/park"}},
	"internal/server": {
		level:   3,
		ours:    []string{"internal/conn", "internal/hub", "internal/mqtt", "internal/park", "internal/session", "internal/sse", "internal/token", "internal/ws"},
		foreign: []string{"github.com/pires/go-proxyproto", "golang.org/x/time"},
	},
	"internal/app": {
		level: 4,
		ours: []string{"internal/backplane/local", "internal/backplane/nats", "internal/config", "internal/hub", "internal/park",
			"internal/rlimit", "internal/server", "internal/token"},
		foreign: []string{"github.com/prometheus/client_golang"},
	},
	"cmd/pubsub": {
		level: 5,
		ours: []string{"internal/app", "internal/backplane/nats", "internal/client", "internal/config", "internal/token",
			"internal/transfer"},
		foreign: []string{"github.com/alecthomas/kong", "golang.org/x/sys"},
	},

	"deploy":                {level: 6},
	"bench/internal/load":   {level: 1, foreign: []string{"golang.org/x/sys"}},
	"bench/internal/report": {level: 1, foreign: []string{"golang.org/x/sys"}},
	"bench/cluster": {
		level: 6,
		ours: []string{"bench/internal/load", "bench/internal/report", "internal/testkit/natsserver",
			"internal/testkit/process", "internal/token"},
		foreign: []string{"github.com/nats-io/nats-server/v2"},
	},
	"bench/fanout": {
		level: 6,
		ours:  []string{"bench/internal/load", "bench/internal/report", "internal/testkit/process", "internal/mqtt", "internal/token"},
	},
	"test/attack": {level: 6},
	"test/e2e":    {level: 6},
	"test/fault":  {level: 6},
	"test/scenario": {
		level: 6,
		ours: []string{"internal/app", "internal/config", "internal/mqtt", "internal/testkit", "internal/testkit/natsserver",
			"internal/testkit/wire"},
		foreign: []string{"github.com/nats-io/nats-server/v2", "github.com/nats-io/nats.go", "go.uber.org/goleak"},
	},
	"test/scenario/cluster":  {level: 7},
	"test/scenario/nats":     {level: 7},
	"test/scenario/parked":   {level: 7},
	"test/scenario/portable": {level: 7},
	"test/scenario/uring":    {level: 7},
	"test/soak": {
		level: 6,
		ours: []string{"internal/mqtt", "internal/testkit/history", "internal/testkit/process", "internal/testkit/wire",
			"internal/token"},
	},
	"test/summary": {level: 6},
}

// pkg describes the package of a directory.
type pkg struct {
	imports    map[string]string // by path, a file that imports it; without tests
	documented bool
	files      int
}

// packages parses the Go files below the root, for all systems and build tags.
func packages(t *testing.T) map[string]*pkg {
	t.Helper()
	found := make(map[string]*pkg)
	err := filepath.WalkDir(".", func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() {
			if file != "." && (name[0] == '.' || name[0] == '_' || name == "testdata" || name == "node_modules") {
				return filepath.SkipDir
			}
			return nil
		}
		if filepath.Ext(name) != ".go" {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly|parser.ParseComments)
		if err != nil {
			return err
		}
		dir := filepath.ToSlash(filepath.Dir(file))
		p := found[dir]
		if p == nil {
			p = &pkg{imports: make(map[string]string)}
			found[dir] = p
		}
		p.files++
		p.documented = p.documented || documents(f)
		if !strings.HasSuffix(name, "_test.go") {
			for _, spec := range f.Imports {
				imported, err := strconv.Unquote(spec.Path.Value)
				if err != nil {
					return err
				}
				p.imports[imported] = file
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// documents reports whether f has a package comment, which begins with "Package" and the
// name, unless the package is a command.
func documents(f *ast.File) bool {
	if f.Doc == nil {
		return false
	}
	text := f.Doc.Text()
	if f.Name.Name == "main" {
		return text != ""
	}
	return strings.HasPrefix(text, "Package "+f.Name.Name+" ")
}

// Every package imports only packages that layout allows, and has a package comment.
func TestLayout(t *testing.T) {
	found := packages(t)
	for _, dir := range slices.Sorted(maps.Keys(found)) {
		p := found[dir]
		may, ok := layout[dir]
		if !ok {
			t.Errorf("%s: not in the layout: add it there, and to the table in ARCHITECTURE.md", dir)
			continue
		}
		if !p.documented {
			t.Errorf("%s: none of the %d files has a package comment", dir, p.files)
		}
		for _, imported := range slices.Sorted(maps.Keys(p.imports)) {
			if isTestkit(imported) && !forTests(dir) {
				t.Errorf("%s: imports %q, which only tests and benchmarks may", p.imports[imported], imported)
			}
			if !allowed(imported, dir, may.ours, may.foreign) {
				t.Errorf("%s: imports %q, which the layout does not allow to %s", p.imports[imported], imported, dir)
			}
		}
	}
	for _, dir := range slices.Sorted(maps.Keys(layout)) {
		if found[dir] == nil {
			t.Errorf("%s: in the layout, but the package does not exist", dir)
			continue
		}
		for _, o := range layout[dir].ours {
			if _, ok := found[dir].imports[module+"/"+o]; !ok {
				t.Errorf("%s: the layout allows %s, which is not imported", dir, o)
			}
		}
		for _, m := range layout[dir].foreign {
			if !slices.ContainsFunc(slices.Collect(maps.Keys(found[dir].imports)), func(i string) bool { return within(i, m) }) {
				t.Errorf("%s: the layout allows %s, which is not imported", dir, m)
			}
		}
		for _, o := range layout[dir].ours {
			if low, ok := layout[o]; !ok || low.level >= layout[dir].level {
				t.Errorf("%s: the layout allows %s, which is not of a lower level", dir, o)
			}
		}
	}
}

func isTestkit(imported string) bool {
	return imported == module+"/internal/testkit" || strings.HasPrefix(imported, module+"/internal/testkit/")
}

// forTests reports whether the package in dir is part of no binary that users run.
func forTests(dir string) bool {
	return isTestkit(path.Join(module, dir)) || strings.HasPrefix(dir, "test/") || strings.HasPrefix(dir, "bench/")
}

func allowed(imported, dir string, ours, foreign []string) bool {
	if imported == module {
		return dir != "."
	}
	if own, ok := strings.CutPrefix(imported, module+"/"); ok {
		return slices.Contains(ours, own)
	}
	if first, _, _ := strings.Cut(imported, "/"); !strings.Contains(first, ".") {
		return imported != "C" // the standard library
	}
	return slices.ContainsFunc(foreign, func(m string) bool { return within(imported, m) })
}

// within reports whether a package belongs to a module.
func within(imported, module string) bool {
	return imported == module || strings.HasPrefix(imported, module+"/")
}

// The table in ARCHITECTURE.md lists the packages of the product and their imports of this
// module. It names a package by the last element of its path.
func TestArchitectureListsEveryPackage(t *testing.T) {
	found := packages(t)
	row := regexp.MustCompile("(?m)^\\| \\[`([^`]+)`\\]\\([^)]+\\) \\|[^|]*\\| ([^|]*) \\|")
	listed := map[string]bool{}
	for _, m := range row.FindAllStringSubmatch(testkit.ReadFile(t, "ARCHITECTURE.md"), -1) {
		dir := m[1]
		if dir == module {
			dir = "."
		}
		listed[dir] = true
		if _, ok := layout[dir]; !ok || found[dir] == nil {
			t.Errorf("ARCHITECTURE.md lists %s, which is not in the layout", m[1])
			continue
		}
		var imports []string
		for imported := range found[dir].imports {
			if imported == module || strings.HasPrefix(imported, module+"/") {
				imports = append(imports, path.Base(imported))
			}
		}
		want := strings.Split(m[2], ", ")
		if m[2] == "none" {
			want = nil
		}
		slices.Sort(imports)
		slices.Sort(want)
		if !slices.Equal(imports, want) {
			t.Errorf("ARCHITECTURE.md says that %s imports %q, but it imports %q", m[1], want, imports)
		}
	}
	for _, dir := range slices.Sorted(maps.Keys(layout)) {
		isProduct := dir == "." || strings.HasPrefix(dir, "internal/") || strings.HasPrefix(dir, "cmd/")
		if isProduct && !listed[dir] {
			t.Errorf("ARCHITECTURE.md does not list %s", dir)
		}
	}
}

// The root package and the hub depend only on the standard library, without HTTP, so that
// they run anywhere, even in a WebAssembly host.
func TestCoreNeedsOnlyTheStandardLibrary(t *testing.T) {
	for _, p := range []string{module, path.Join(module, "internal/hub")} {
		cmd := exec.Command("go", "list", "-deps", "-f", "{{.ImportPath}} {{.Standard}}", p)
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%v: %v", cmd, err)
		}
		deps := 0
		for line := range strings.Lines(string(out)) {
			dep, standard, _ := strings.Cut(strings.TrimSpace(line), " ")
			deps++
			if dep == "net/http" || standard != "true" && dep != module && dep != p {
				t.Errorf("%s depends on %s", p, dep)
			}
		}
		if deps < 10 {
			t.Errorf("go list reports only %d dependencies of %s", deps, p)
		}
	}
}
