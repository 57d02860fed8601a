//go:build e2e

package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pubsub/internal/testkit"
)

// silent keeps a broker from sending keep-alives, which would push out bytes that a proxy or client
// holds back.
var silent = []string{"--sse-keep-alive", "10m"}

// TestEventSourceLibraries: each library resumes a durable stream that was cut by a killed server.
// The topic has characters beyond Latin-1, which a header cannot carry, so the id must be one that
// the library can send back. A library that takes a cut body for a complete one does not reconnect.
func TestEventSourceLibraries(t *testing.T) {
	for _, library := range []string{
		"eventsource 2", "eventsource 4", "undici", "eventsource-client", "@microsoft/fetch-event-source",
	} {
		t.Run(library, func(t *testing.T) {
			t.Parallel() // each waits a second or more before it reconnects
			const topic = "ł"
			b := startBroker(t)
			token := b.token(t, []string{topic}, []string{topic})
			s := startScript(t, "eventsources.js", library)
			b.mustPost(t, token, []byte("first"), "topic", topic, "retain", "true")
			s.do(t, "listen", map[string]any{"url": b.events("topic", topic, "durable", "true", "auth", token)}, nil)
			nextEvent(t, s, "stream-open", "")
			if e := nextEvent(t, s, "message", "first"); !strings.HasPrefix(e.ID, "%C5%82:") {
				t.Errorf("the id is %q", e.ID)
			}
			b.crash()
			b.start(t)
			nextEvent(t, s, "stream-open", "")
			// A library that cannot send the id gets the first message again.
			b.mustPost(t, token, []byte("second"), "topic", topic, "retain", "true")
			nextEvent(t, s, "message", "second")
		})
	}
}

// nextEvent checks that the next event has that kind and text.
func nextEvent(t *testing.T, s *script, kind, text string) scriptEvent {
	t.Helper()
	e := s.await(t, "stream-open", "keep-alive", "message", "stream-error", "resolved", "rejected")
	if e.Kind != kind || e.Text != text {
		t.Fatalf("got %s %q, want %s %q", e.Kind, e.Text, kind, text)
	}
	return e
}

// pythonStream is a read_stream.py with a stream.
type pythonStream struct {
	process *process
	lines   chan pythonLine // closed when the stream has ended
}

type pythonLine struct {
	Line           string // of requests
	Kind, Data, ID string // of httpx-sse
	Retry          int
}

func openPython(t *testing.T, args ...string) *pythonStream {
	t.Helper()
	cmd := exec.Command(python, append([]string{"read_stream.py"}, args...)...)
	cmd.Env = append(os.Environ(), "PYTHONPATH=python_modules")
	s := &pythonStream{process: start(t, args[0], false, cmd), lines: make(chan pythonLine, 1024)}
	go func() {
		defer s.process.wait()
		defer close(s.lines)
		for r := bufio.NewScanner(s.process.stdout); r.Scan(); {
			var l pythonLine
			if err := json.Unmarshal(r.Bytes(), &l); err != nil {
				fmt.Fprintf(s.process.err, "not a line of JSON (%v): %s\n", err, r.Bytes())
				return
			}
			s.lines <- l
		}
	}()
	return s
}

// next returns the next line. ok is false at the end of the stream.
func (s *pythonStream) next(t *testing.T) (l pythonLine, ok bool) {
	t.Helper()
	select {
	case l, ok = <-s.lines:
		return l, ok
	case <-time.After(patience):
		t.Fatalf("%s has read nothing within %v", s.process.name, patience)
	}
	return l, false
}

// TestRequestsReadsAtOnce: Python's requests returns each line when it arrives, not when
// a block is full.
func TestRequestsReadsAtOnce(t *testing.T) {
	b := startBroker(t, silent...)
	token := b.token(t, []string{"t"}, []string{"t"})
	s := openPython(t, "requests", b.events("topic", "t", "auth", token))
	expectLines := func(lines ...string) {
		t.Helper()
		for _, want := range lines {
			if l, ok := s.next(t); !ok || l.Line != want {
				t.Fatalf("read %q, %v; want %q", l.Line, ok, want)
			}
		}
	}
	// The stream must send nothing after the blank line of an event that would push the line out.
	expectLines("event: stream-open", "data: ")
	for i := range 3 {
		text := fmt.Sprint("message ", i)
		b.mustPost(t, token, []byte(text), "topic", "t")
		expectLines("", "event: message", "data: "+text)
	}
}

// TestHTTPXSSE: httpx-sse passes on a lone retry field as an empty message, which looks like a
// cleared topic. So a draining server sends a keep-alive with the retry field, and the stream
// resumes after it.
func TestHTTPXSSE(t *testing.T) {
	const topic = "ł"
	b := startBroker(t, silent...)
	token := b.token(t, []string{topic}, []string{topic})
	b.mustPost(t, token, []byte("first"), "topic", topic, "retain", "true")
	url := b.events("topic", topic, "durable", "true", "auth", token)
	s := openPython(t, "httpx-sse", url)
	expectEvent := func(s *pythonStream, kind, data string) pythonLine {
		t.Helper()
		l, ok := s.next(t)
		if !ok || l.Kind != kind || l.Data != data {
			t.Fatalf("read %+v, %v; want %s %q", l, ok, kind, data)
		}
		return l
	}
	expectEvent(s, "stream-open", "")
	id := expectEvent(s, "message", "first").ID
	if status := b.process.terminate(t); status != 0 {
		t.Errorf("after SIGTERM the exit status is %d", status)
	}
	if l := expectEvent(s, "keep-alive", ""); l.Retry < 1000 || l.Retry > 10_000 {
		t.Errorf("the retry is %d ms", l.Retry)
	}
	if l, ok := s.next(t); ok {
		t.Errorf("after the end of the stream: %+v", l)
	}
	<-s.process.exited
	if code := s.process.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("the stream did not end cleanly: status %d", code)
	}

	b.start(t)
	s = openPython(t, "httpx-sse", url, id)
	expectEvent(s, "stream-open", "")
	b.mustPost(t, token, []byte("second"), "topic", topic, "retain", "true")
	expectEvent(s, "message", "second")
}

// throughProxy checks that events arrive through the proxy at addr without delay.
func throughProxy(t *testing.T, b *broker, addr string) {
	t.Helper()
	token := b.token(t, []string{"t"}, []string{"t"})
	b.mustPost(t, token, []byte("retained"), "topic", "t", "retain", "true")
	_, query, _ := strings.Cut(b.events("topic", "t", "durable", "true", "auth", token), "?")
	s := openCurl(t, "http://"+addr+"/events?"+query, "--compressed")
	for i, text := range []string{"", "retained", "one", "two"} {
		if i > 1 {
			b.mustPost(t, token, []byte(text), "topic", "t")
		}
		kind := "message"
		if i == 0 {
			kind = "stream-open"
		}
		if e := s.next(t); e.kind != kind || e.data != text {
			t.Fatalf("got %+v, want %s %q", e, kind, text)
		}
	}
}

// awaitPort waits until a process listens on addr.
func awaitPort(t *testing.T, p *process, addr string) {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
			return
		}
		select {
		case <-p.exited:
			t.Fatalf("%s ended: %v", p.name, p.cmd.ProcessState)
		default:
		}
		if time.Now().After(end) {
			t.Fatalf("%s does not listen: %v", p.name, err)
		}
	}
}

// TestVarnish: Varnish with only a backend configured passes events on without delay.
func TestVarnish(t *testing.T) {
	b := startBroker(t, silent...)
	addr, dir := testkit.FreeAddress(t), t.TempDir()
	host, port, err := net.SplitHostPort(strings.TrimPrefix(b.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	vcl := filepath.Join(dir, "default.vcl")
	text := fmt.Sprintf("vcl 4.1;\nbackend default { .host = %q; .port = %q; }\n", host, port)
	if err := os.WriteFile(vcl, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	// Without its jail, which needs users of its own. It ends with the test.
	p := start(t, "varnishd", true, exec.Command("/usr/sbin/varnishd",
		"-F", "-j", "none", "-n", filepath.Join(dir, "varnish"), "-a", addr, "-f", vcl, "-s", "malloc,16m"))
	awaitPort(t, p, addr)
	throughProxy(t, b, addr)
}

// TestCompressingMiddleware: express with compression passes events on without delay to a client
// that accepts gzip.
func TestCompressingMiddleware(t *testing.T) {
	b := startBroker(t, silent...)
	addr := testkit.FreeAddress(t)
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	p := start(t, "middleware.js", true, exec.Command("node", "middleware.js", port, b.url))
	awaitPort(t, p, addr)
	throughProxy(t, b, addr)
}

// TestPageIsRefusedOnce: an EventSource with a wrong token reconnects after a minute or more, while
// the same browser reconnects every few seconds to a server that sends no retry.
func TestPageIsRefusedOnce(t *testing.T) {
	t.Parallel()
	visits := make(chan struct{}, 100)
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Access-Control-Allow-Origin", "*")
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprint(w, "event: stream-error\ndata: {}\n\n")
		visits <- struct{}{}
	}))
	defer other.Close()
	b := startBroker(t)
	page := openPage(t)
	for _, url := range []string{b.events("topic", "demo", "auth", "wrong"), other.URL} {
		page.do(t, "listen", map[string]any{"url": url, "stay": true}, nil)
	}
	for range 3 {
		select {
		case <-visits:
		case <-time.After(patience):
			t.Fatal("Chromium does not reconnect at all")
		}
	}
	if n := strings.Count(b.process.err.String(), `msg="client refused"`); n != 1 {
		t.Errorf("%d requests", n)
	}
}

// TestPolyfillFromAnotherOrigin: the browser build of eventsource 2 sends Cache-Control, which
// needs a CORS preflight.
func TestPolyfillFromAnotherOrigin(t *testing.T) {
	b := startBroker(t)
	token := b.token(t, []string{"t"}, []string{"t"})
	page, _ := openPageAt(t, "/polyfill.html")
	page.do(t, "listen", map[string]any{"url": b.events("topic", "t", "durable", "true", "auth", token)}, nil)
	b.mustPost(t, token, []byte("x"), "topic", "t", "retain", "true")
	if e := page.await(t, "message", "stream-error"); e.Kind != "message" || string(e.Payload) != "x" || e.ID == "" {
		t.Errorf("got %+v", e)
	}
}
