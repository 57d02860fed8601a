package server

import (
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
		h.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
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
		t.Errorf("the command line, which may hold the admin token, is told: %d %q", s, b)
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

func TestNotReadyBeforeKeysAreKnown(t *testing.T) {
	s := New(Options{Backplane: newNode(t, nil).backplane}) // it does not run
	w := httptest.NewRecorder()
	s.OpsHandler(http.NotFoundHandler()).ServeHTTP(w, httptest.NewRequest("GET", "/readyz", nil))
	if w.Code != 503 || w.Body.String() != "signing keys not known yet\n" {
		t.Errorf("got %d %q", w.Code, w.Body)
	}
}

func TestDrainingRefusesWhatIsNew(t *testing.T) {
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
		t.Errorf("/: %d", res.StatusCode)
	}
}
