//go:build e2e

package e2e

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestReadme follows README.md to the letter, in a fresh copy of the repository. It runs the blocks
// of the README that have a comment with their name on the line before:
//
//	<!-- e2e: NAME -->
//	```sh
//
// The names are those below. Each must be there, and no other.
func TestReadme(t *testing.T) {
	for _, address := range []string{"127.0.0.1:7676", "127.0.0.1:7677"} {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatalf("the README's broker needs the address %s: %v", address, err)
		}
		l.Close()
	}
	r := &reader{blocks: readBlocks(t, "../../README.md"), dir: cloneTree(t)}

	step(t, "try it", func(t *testing.T) {
		server := r.start(t, "try")
		server.await(t, "the lines to paste", func(_, stderr string) bool {
			return strings.Contains(stderr, "Ctrl-C")
		})
		var pasted []string
		for line := range strings.Lines(server.err.String()) {
			if line = strings.TrimSpace(line); strings.HasPrefix(line, "curl ") {
				pasted = append(pasted, line)
			}
		}
		if len(pasted) != 2 {
			t.Fatalf("serve --dev prints %d curl lines, not one to subscribe and one to publish", len(pasted))
		}
		subscriber := r.shell(t, "the curl that subscribes", pasted[0])
		subscriber.await(t, "stream-open", printed("event: stream-open"))
		published := r.shell(t, "the curl that publishes", pasted[1])
		published.await(t, "Published", printed("Published"))
		subscriber.await(t, "the message", printed("hello world"))
		server.interrupt(t) // the exit status is that of "go run"
	})

	step(t, "publish and subscribe", func(t *testing.T) {
		server := r.start(t, "serve")
		server.await(t, "the token", func(stdout, _ string) bool { return strings.HasSuffix(stdout, "\n") })

		byCurl := r.start(t, "curl-subscribe")
		byCurl.await(t, "stream-open", printed("event: stream-open"))
		if out := r.finish(t, "curl-publish"); out != "Published\n" {
			t.Errorf("curl printed %q", out)
		}
		byCurl.await(t, "curl's message", printed("data: hello world"))

		byBinary := r.start(t, "pubsub-subscribe")
		byBinary.await(t, "the retained message", printed("hello world"))
		r.finish(t, "pubsub-publish")
		byBinary.await(t, "its message", printed("hello from Go"))
		byCurl.await(t, "its message", printed("data: hello from Go"))

		r.save(t, "browser", "demo.html")
		token, err := os.ReadFile(filepath.Join(r.dir, "token"))
		if err != nil {
			t.Fatal(err)
		}
		page := startScript(t, "chromium.js")
		page.do(t, "open", map[string]any{"url": "file://" + filepath.Join(r.dir, "demo.html")}, nil)
		page.do(t, "fill", map[string]any{"selector": "#token", "text": strings.TrimSpace(string(token))}, nil)
		page.do(t, "click", map[string]any{"selector": "#connect"}, nil)
		page.do(t, "see", map[string]any{"text": "hello from Go"}, nil)
		page.do(t, "fill", map[string]any{"selector": "#message", "text": "hello from a page"}, nil)
		page.do(t, "click", map[string]any{"selector": "#publish"}, nil)
		page.do(t, "see", map[string]any{"text": "hello from a page"}, nil)
		byCurl.await(t, "the page's message", printed("data: hello from a page"))

		r.save(t, "mqttjs", "demo.js")
		modules, err := filepath.Abs("node_modules") // for the README's "npm install mqtt"
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(modules, filepath.Join(r.dir, "node_modules")); err != nil {
			t.Fatal(err)
		}
		byMQTT := r.shell(t, "node demo.js", "node demo.js")
		byMQTT.await(t, "its message", printed("demo: hello from MQTT.js"))
		byCurl.await(t, "its message", printed("data: hello from MQTT.js"))
		page.do(t, "see", map[string]any{"text": "hello from MQTT.js"}, nil)

		for _, p := range []*process{byCurl, byBinary, byMQTT, server} {
			p.interrupt(t)
		}
	})

	step(t, "run it for real", func(t *testing.T) {
		server := r.start(t, "run")
		server.await(t, "listening", func(_, stderr string) bool { return strings.Contains(stderr, "listening") })
		r.finish(t, "key-create")
		post := func(file string) {
			t.Helper()
			token, err := os.ReadFile(filepath.Join(r.dir, file))
			if err != nil {
				t.Fatal(err)
			}
			b := &broker{url: "http://127.0.0.1:7676"}
			b.mustPost(t, strings.TrimSpace(string(token)), []byte(file), "topic", "demo")
		}
		post("token")

		r.save(t, "pyjwt", "make_token.py")
		out := r.run(t, "PyJWT", python+" make_token.py")
		if err := os.WriteFile(filepath.Join(r.dir, "token-of-python"), []byte(out), 0o600); err != nil {
			t.Fatal(err)
		}
		post("token-of-python")
		if status := server.interrupt(t); status != 0 && status != interrupted {
			t.Errorf("after Ctrl-C the exit status is %d", status)
		}
	})

	for name := range r.blocks {
		t.Errorf("README.md has a block %q that this test does not run", name)
	}
}

// interrupted is the exit status of a shell that Ctrl-C has ended together with its program.
const interrupted = 128 + 2

// reader follows the README as a newcomer does.
type reader struct {
	blocks map[string]string // by name, without those that have been run
	dir    string            // working directory of the reader's terminals
}

func (r *reader) take(t *testing.T, name string) string {
	t.Helper()
	text, ok := r.blocks[name]
	if !ok {
		t.Fatalf("README.md has no block after a line <!-- e2e: %s -->", name)
	}
	delete(r.blocks, name)
	return text
}

// start pastes a block into a terminal of its own.
func (r *reader) start(t *testing.T, name string) *process {
	t.Helper()
	return r.shell(t, "README block "+name, r.take(t, name))
}

// finish pastes a block into a terminal, waits until it succeeds, and returns its standard output.
func (r *reader) finish(t *testing.T, name string) string {
	t.Helper()
	return r.run(t, "README block "+name, r.take(t, name))
}

// save saves a block as a file.
func (r *reader) save(t *testing.T, name, file string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(r.dir, file), []byte(r.take(t, name)), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (r *reader) shell(t *testing.T, name, commands string) *process {
	t.Helper()
	cmd := exec.Command("bash", "-euo", "pipefail", "-c", commands)
	cmd.Dir = r.dir
	return start(t, name, true, cmd)
}

func (r *reader) run(t *testing.T, name, commands string) string {
	t.Helper()
	p := r.shell(t, name, commands)
	select {
	case <-p.exited:
	case <-time.After(patience):
		t.Fatalf("%s has not ended within %v", name, patience)
	}
	if !p.cmd.ProcessState.Success() {
		t.Fatalf("%s: %v; its output:\n%s", name, p.cmd.ProcessState, p.out)
	}
	return p.out.String()
}

// printed returns a condition for [process.await].
func printed(text string) func(stdout, stderr string) bool {
	return func(stdout, _ string) bool { return strings.Contains(stdout, text) }
}

// readBlocks returns the marked blocks of a Markdown file by name.
func readBlocks(t *testing.T, file string) map[string]string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	blocks, err := parseBlocks(string(text))
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return blocks
}

func parseBlocks(text string) (map[string]string, error) {
	blocks := map[string]string{}
	lines := strings.Split(text, "\n")
	for i := 0; i < len(lines); i++ {
		name, marked := strings.CutPrefix(lines[i], "<!-- e2e: ")
		if !marked {
			continue
		}
		name, ok := strings.CutSuffix(name, " -->")
		if _, twice := blocks[name]; !ok || name == "" || twice {
			return nil, fmt.Errorf("line %d: a marker is <!-- e2e: NAME -->, with a new name each", i+1)
		}
		if i++; i == len(lines) || !strings.HasPrefix(lines[i], "```") {
			return nil, fmt.Errorf("line %d: no block begins right after the marker %s", i+1, name)
		}
		var block strings.Builder
		for i++; ; i++ {
			if i == len(lines) {
				return nil, fmt.Errorf("the block %s has no end", name)
			}
			if lines[i] == "```" {
				break
			}
			block.WriteString(lines[i] + "\n")
		}
		blocks[name] = block.String()
	}
	return blocks, nil
}

// cloneTree copies the files of the repository, including files that are not committed yet, as git
// clone would.
func cloneTree(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	list := run(t, "", "git", "-C", "../..", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	for _, name := range strings.Split(strings.TrimSuffix(list, "\x00"), "\x00") {
		if err := copyFile(filepath.Join("../..", name), filepath.Join(dir, name)); err != nil && !os.IsNotExist(err) {
			t.Fatal(err) // a file that is listed but was deleted is no error
		}
	}
	return dir
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}
