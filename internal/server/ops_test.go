package server

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"pubsub"
)

func TestOps(t *testing.T) {
	n := newNode(t, nil)
	h := n.OpsHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "metrics") }))
	get := func(path string) (int, string) {
		w := httptest.NewRecorder()
		r := httptest.NewRequest("GET", path, nil)
		r.Host = "127.0.0.1:7677"
		h.ServeHTTP(w, r)
		return w.Code, w.Body.String()
	}
	want := func(path string, status int, body string) {
		t.Helper()
		if s, b := get(path); s != status || b != body {
			t.Errorf("%s: got %d %q, want %d %q", path, s, b, status, body)
		}
	}
	want("/healthz", 200, "ok\n")
	want("/readyz", 200, "ready\n")
	want("/metrics", 200, "metrics")
	if s, b := get("/debug/pprof/goroutine?debug=1"); s != 200 || !strings.Contains(b, "goroutine profile") {
		t.Errorf("pprof: got %d %.100q", s, b)
	}
	if s, b := get("/debug/pprof/cmdline"); s != 404 {
		t.Errorf("the command line, which may contain the admin token: got %d %q", s, b)
	}

	n.backplane.fail("Health", fmt.Errorf("%w: the reason", pubsub.ErrUnavailable))
	for range 2 {
		want("/readyz", 503, "backplane unavailable: the reason\n")
	}
	want("/healthz", 200, "ok\n")
	n.backplane.fail("Health", nil)
	want("/readyz", 200, "ready\n")

	n.Drain(context.Background())
	want("/readyz", 503, "shutting down\n")
	want("/healthz", 200, "ok\n")
}

// The Host must be an IP address, localhost or one of ops-hosts.
func TestOpsHosts(t *testing.T) {
	s := New(Options{Backplane: &faulty{}, OpsHosts: []string{"Node-1.Internal", "grafana."}})
	h := s.OpsHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "metrics") }))
	served := func(host, proto string, path string) bool {
		t.Helper()
		// As net/http reads it.
		text := "GET " + path + " " + proto + "\r\n"
		if host != "none" {
			text += "Host: " + host + "\r\n"
		}
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(text + "\r\n")))
		if err != nil {
			t.Fatal(err)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		switch {
		case w.Code == 200:
			return true
		case w.Code != 403 || !strings.Contains(w.Body.String(), "ops-hosts") || !strings.HasSuffix(w.Body.String(), "\n"):
			t.Errorf("Host %s: status %d, body %q", host, w.Code, w.Body)
		}
		return false
	}
	for _, host := range []string{
		"127.0.0.1", "127.0.0.1:7677", "10.1.2.3:80", "[::1]", "[::1]:7677", "[fe80::1%25eth0]:7677", "[2001:db8::1]",
		"localhost", "localhost:7677", "LOCALHOST:1", "localhost.", "localhost.:7677",
		"node-1.internal", "NODE-1.internal:7677", "node-1.internal.", "grafana:7677",
	} {
		if !served(host, "HTTP/1.1", "/metrics") {
			t.Errorf("%s is refused", host)
		}
	}
	for _, host := range []string{
		"evil.example", "evil.example:7677", "127.0.0.1.evil.example", "localhost.evil.example", "evil-localhost",
		"internal", "node-2.internal", "a.node-1.internal", "", ":7677", "[evil.example]", "127.0.0.1:7677:evil.example",
	} {
		if served(host, "HTTP/1.1", "/metrics") {
			t.Errorf("%q is served", host)
		}
	}
	for _, path := range []string{"/healthz", "/readyz", "/debug/pprof/", "/debug/pprof/profile", "/debug/pprof/trace", "/nothing"} {
		if served("evil.example", "HTTP/1.1", path) {
			t.Errorf("%s is served for a host name that is not allowed", path)
		}
	}
	// The host of an absolute request target takes precedence over Host.
	if served("127.0.0.1", "HTTP/1.1", "http://evil.example/metrics") {
		t.Error("the Host header takes precedence")
	}
	if !served("none", "HTTP/1.0", "/metrics") || served("evil.example", "HTTP/1.0", "/metrics") {
		t.Error("HTTP/1.0 is refused without Host, or served with a wrong one")
	}
}

func TestNotReadyBeforeKeysAreKnown(t *testing.T) {
	s := New(Options{Backplane: newNode(t, nil).backplane}) // Run is not called
	w := httptest.NewRecorder()
	r := httptest.NewRequest("GET", "/readyz", nil)
	r.Host = "localhost"
	s.OpsHandler(http.NotFoundHandler()).ServeHTTP(w, r)
	if w.Code != 503 || w.Body.String() != "signing keys not known yet\n" {
		t.Errorf("got %d %q", w.Code, w.Body)
	}
}

func TestDrainingRefusesNewRequests(t *testing.T) {
	n := newNode(t, nil)
	n.Drain(context.Background())
	upgrade := exchange{method: "GET", target: "/mqtt", header: map[string]string{
		"Connection": "Upgrade", "Upgrade": "websocket",
		"Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
	}}
	for _, x := range []exchange{
		{method: "POST", target: "/events", body: "x"},
		{method: "POST", target: "/events?topic=t", header: admin, body: "x"},
		{method: "POST", target: "/admin/keys", header: admin},
		upgrade,
	} {
		res, body := n.do(t, n.h1, x)
		if res.StatusCode != 503 || body != "Shutting down\n" || res.Header.Get("Access-Control-Allow-Origin") != "*" {
			t.Errorf("%s %s: got %d %q", x.method, x.target, res.StatusCode, body)
		}
		checkRetryAfter(t, res, true)
	}
	if res, _ := n.do(t, n.h1, exchange{method: "GET", target: "/"}); res.StatusCode != 200 {
		t.Errorf("GET /: status %d, want 200", res.StatusCode)
	}
}
