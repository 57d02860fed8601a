package client

import (
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"pubsub"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// quiet discards the errors of test servers that are expected to fail.
var quiet = log.New(io.Discard, "", 0)

// serve starts a server and returns a client of it.
func serve(t *testing.T, h http.HandlerFunc) *Client {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	c, err := New(s.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// refuse sends an error response like those of a Pub/Sub server.
func refuse(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	fmt.Fprintln(w, text)
}

func TestNew(t *testing.T) {
	for s, want := range map[string]string{
		"http://127.0.0.1:7676":        "http://127.0.0.1:7676",
		"https://example.com":          "https://example.com",
		"https://example.com/pub/sub/": "https://example.com/pub/sub/",
		"http://[::1]:1":               "http://[::1]:1",
		"localhost:7676":               "http://localhost:7676",
		"127.0.0.1:7676":               "http://127.0.0.1:7676",
		"[::1]:7676":                   "http://[::1]:7676",
		"example.com":                  "http://example.com",
		"example.com/pub/sub":          "http://example.com/pub/sub",
		" https://example.com\n":       "https://example.com",
	} {
		c, err := New(s, nil)
		if err != nil || c.base.String() != want {
			t.Errorf("New(%q): %v, %v; want %s", s, c, err, want)
		}
	}
	for _, s := range []string{"", "ws://a", "http://", "http://:7676", ":7676", "http://a?b", "http://a#b", "http://a b", "a b:1", "/x"} {
		_, err := New(s, nil)
		if want := fmt.Sprintf("server %q is not allowed; it takes an address, like http://HOST:PORT or https://HOST", s); err == nil || err.Error() != want {
			t.Errorf("New(%q): %v, want %s", s, err, want)
		}
	}
	for _, s := range []string{"http://u:s3cret@a", "u:s3cret@a"} {
		if _, err := New(s, nil); err == nil || !strings.Contains(err.Error(), `"…@a"`) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("New(%q): %v", s, err)
		}
	}
}

// TestAdmin makes every request of the admin API.
func TestAdmin(t *testing.T) {
	created := time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC)
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Fastly-Key") != "admin" {
			refuse(w, 401, "Fastly-Key header invalid or not specified")
			return
		}
		switch r.Method + " " + r.URL.EscapedPath() {
		case "POST /admin/keys":
			io.WriteString(w, `{"id":"k1","value":"v1"}`)
		case "GET /admin/keys":
			io.WriteString(w, `{"keys":[{"id":"k1","created":"2026-05-04T03:02:01Z"},{"id":"k2","created":"2026-05-04T03:02:01Z"}]}`)
		case "DELETE /admin/keys/a%2Fb%20c":
			w.WriteHeader(204)
		default:
			refuse(w, 404, "Not Found")
		}
	})
	key, err := c.CreateKey(t.Context(), "admin")
	if want := (pubsub.Key{ID: "k1", Value: "v1"}); err != nil || key != want {
		t.Errorf("CreateKey = %v, %v", key, err)
	}
	keys, err := c.Keys(t.Context(), "admin")
	if err != nil || len(keys) != 2 || keys[1] != (pubsub.Key{ID: "k2", Created: created}) {
		t.Errorf("Keys = %v, %v", keys, err)
	}
	if err := c.DeleteKey(t.Context(), "admin", "a/b c"); err != nil {
		t.Errorf("DeleteKey: %v", err)
	}
	wantError(t, c.DeleteKey(t.Context(), "admin", "x"), Error{404, "", "Not Found"})
	_, err = c.CreateKey(t.Context(), "wrong")
	wantError(t, err, Error{401, "", "Fastly-Key header invalid or not specified"})
}

func wantError(t *testing.T, err error, want Error) {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) || *e != want {
		t.Errorf("got %#v, want %#v", err, want)
	}
}

func TestAdminOfAnotherServer(t *testing.T) {
	for body, want := range map[string]string{
		"<html>":                              " is not a Pub/Sub server: it answers 200 OK (text/html)",
		"{}":                                  " contains no key",
		strings.Repeat(" ", maxAnswerBytes+1): " is not a Pub/Sub server: it answers 200 OK (text/plain)",
	} {
		c := serve(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, body) })
		var e *Error
		if _, err := c.CreateKey(t.Context(), "admin"); !errors.As(err, &e) || e.Condition != Foreign || !strings.HasSuffix(e.Text, want) {
			t.Errorf("got %#v, want an error that ends in %q", err, want)
		}
		if err := c.DeleteKey(t.Context(), "admin", "x"); !errors.As(err, &e) || e.Condition != Foreign {
			t.Errorf("status 200 instead of 204: %v", err)
		}
	}
}

func TestPublish(t *testing.T) {
	var got string
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got = fmt.Sprintf("%s %s %s %q", r.Method, r.URL, r.Header.Get("Authorization"), body)
		if r.URL.Query().Get("retain") == "true" {
			w.Header().Set("Pubsub-Version", "0123456789abcdef-42")
		}
		io.WriteString(w, "Published\n")
	})
	ttl := uint32(0)
	for _, tt := range []struct {
		p             Publication
		want, version string
	}{
		{Publication{Topic: "a", Data: []byte("x")}, `POST /events?topic=a Bearer tok "x"`, ""},
		{Publication{Topic: "a&b=c d", Data: []byte{0, 0xff, '\n'}, Retain: true}, `POST /events?retain=true&topic=a%26b%3Dc+d Bearer tok "\x00\xff\n"`, "0123456789abcdef-42"},
		{Publication{Topic: "a", TTL: &ttl}, `POST /events?topic=a&ttl=0 Bearer tok ""`, ""},
	} {
		version, err := c.Publish(t.Context(), "tok", tt.p)
		if err != nil || version != tt.version || got != tt.want {
			t.Errorf("Publish(%v) = %q, %v; the server received %s, want %s", tt.p, version, err, got, tt.want)
		}
	}
}

// TestRefusals checks the errors for responses that are not those of a successful publish.
func TestRefusals(t *testing.T) {
	for _, tt := range []struct {
		name   string
		answer http.HandlerFunc
		want   Error
	}{
		{"ours", func(w http.ResponseWriter, r *http.Request) { refuse(w, 403, "Cannot publish to topic: a") }, Error{403, "", "Cannot publish to topic: a"}},
		{"no text", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(503) }, Error{503, "", "503 Service Unavailable"}},
		{"a page", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			w.WriteHeader(502)
			io.WriteString(w, "<h1>Bad Gateway</h1>")
		}, Error{502, "", "502 Bad Gateway"}},
		{"a long text of several lines", func(w http.ResponseWriter, r *http.Request) {
			refuse(w, 400, "\x1b[31m"+strings.Repeat("x", 5000)+"\nmore")
		}, Error{400, "", "\ufffd[31m" + strings.Repeat("x", 295) + "…"}},
		{"bidi", func(w http.ResponseWriter, r *http.Request) { refuse(w, 400, "a\u202eb") }, Error{400, "", "a\ufffdb"}},
		{"switched off", func(w http.ResponseWriter, r *http.Request) { refuse(w, 404, "Not Found") }, Error{404, "", "Not Found"}},
		{"a page of another server", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			w.WriteHeader(404)
			io.WriteString(w, "<h1>Not Found</h1>")
		}, Error{404, Foreign, "SERVER is not a Pub/Sub server: it answers 404 Not Found (text/html)"}},
		{"a text of another server", http.NotFound, Error{404, Foreign, "SERVER is not a Pub/Sub server: it answers 404 Not Found (text/plain)"}},
		{"no POST", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(405) },
			Error{405, Foreign, "SERVER is not a Pub/Sub server: it answers 405 Method Not Allowed"}},
		{"always a welcome page", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "<html>Welcome") },
			Error{200, Foreign, "SERVER is not a Pub/Sub server: it answers 200 OK (text/html)"}},
		{"a redirect", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://elsewhere/", http.StatusTemporaryRedirect)
		},
			Error{307, "", "307 Temporary Redirect: the server is at https://elsewhere/"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := serve(t, tt.answer)
			_, err := c.Publish(t.Context(), "tok", Publication{Topic: "a"})
			tt.want.Text = strings.Replace(tt.want.Text, "SERVER", c.base.String(), 1)
			wantError(t, err, tt.want)
		})
	}
}

// TestBasePath publishes to a server whose address has a path.
func TestBasePath(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/pub/sub/events" {
			refuse(w, 404, "Not Found")
			return
		}
		io.WriteString(w, "Published\n")
	}))
	defer s.Close()
	for _, base := range []string{"/pub/sub", "/pub/sub/"} {
		c, err := New(s.URL+base, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Publish(t.Context(), "tok", Publication{Topic: "a"}); err != nil {
			t.Error(err)
		}
		c.Close()
	}
}
