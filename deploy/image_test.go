package deploy

import (
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// TestImage checks that the binary of Dockerfile runs without any library or loader.
func TestImage(t *testing.T) {
	data, err := os.ReadFile("Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	build, release := "", ""
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSpace(line)
		if command, ok := strings.CutPrefix(line, "RUN "); ok && strings.Contains(command, "go build") {
			build = command
		}
		if rest, ok := strings.CutPrefix(line, "FROM golang:"); ok {
			release, _, _ = strings.Cut(rest, " ")
		}
	}
	if !strings.Contains(build, " -o /out/pubsub ") {
		t.Fatalf("Dockerfile builds with %q", build)
	}
	if release == "" || !strings.HasPrefix(runtime.Version()+".", "go"+release+".") {
		t.Errorf("Dockerfile builds with Go %s, but %s is tested", release, runtime.Version())
	}
	binary := filepath.Join(t.TempDir(), "pubsub")
	sh := exec.CommandContext(t.Context(), "sh", "-c", strings.Replace(build, "/out/pubsub", binary, 1))
	sh.Dir = ".."
	sh.Env = append(os.Environ(), "GOOS=linux")
	if out, err := sh.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", build, err, out)
	}
	f, err := elf.Open(binary)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
			t.Errorf("the binary has a segment %v: it is not static", p.Type)
		}
	}
}
