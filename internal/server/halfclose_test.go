package server

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"pubsub/internal/testkit"
	"strings"
	"testing"

	"pubsub"
)

// A client may shut down its sending side after its request, as embedded clients do, or may
// be gone: net/http cancels the request in both cases, and nothing may fail because of it.
// Most requests are answered. A stream is closed without a response, because a client that
// has gone looks the same.
func TestHalfClosedClient(t *testing.T) {
	n := newNode(t, nil)
	m := pubsub.Message{Topic: "t", Data: []byte("x"), Retain: true}
	if _, err := pubsub.Publish(t.Context(), n.backplane, m)(); err != nil {
		t.Fatal(err)
	}
	// The handler starts when net/http has noticed the end.
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		<-r.Context().Done()
		n.Handler().ServeHTTP(w, r)
	}))
	defer srv.Close()
	read := map[string]any{"x-fastly-read": []string{"t"}}
	for _, c := range []struct {
		name, request, token string
		status               string // empty if there is no response
		body                 string // a part of it
	}{
		{"stream", "GET /events?topic=t", n.token(read), "", ""},
		{"durable stream", "GET /events?topic=t&durable=1", n.token(read), "", ""},
		{"refused stream", "GET /events?topic=u", n.token(read), "200 OK", "Cannot subscribe to topic: u"},
		{"stream with an unknown key", "GET /events?topic=t", testkit.Sign(pubsub.Key{ID: "another", Value: "v"}, read), "200 OK", "Invalid token"},
		{"list of topics", "GET /admin/topics", adminToken, "200 OK", `{"topics":[{"topic":"t"`},
		{"publication", "POST /events?topic=t", n.writer("t"), "200 OK", "Published\n"},
		{"retained publication", "POST /events?topic=t&retain=1", n.writer("t"), "200 OK", "Published\n"},
		{"publication with an unknown key", "POST /events?topic=t", testkit.Sign(pubsub.Key{ID: "third", Value: "v"}, read), "403 Forbidden", "Invalid token\n"},
		{"list of keys", "GET /admin/keys", adminToken, "200 OK", `{"keys":[{`},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn, err := net.Dial("tcp", srv.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			io.WriteString(conn, c.request+" HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "+c.token+"\r\n\r\n")
			conn.(*net.TCPConn).CloseWrite()
			res, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if c.status == "" {
				if err != io.ErrUnexpectedEOF {
					t.Errorf("a response: %+v, %v", res, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(res.Body)
			if err != nil || res.Status != c.status || !strings.Contains(string(body), c.body) {
				t.Errorf("got %s %q, %v; want %s and %q", res.Status, body, err, c.status, c.body)
			}
		})
	}
	for _, line := range n.log.all() {
		if strings.Contains(line, "failed") || strings.Contains(line, "internal-server-error") || strings.HasPrefix(line, "connected") {
			t.Errorf("logged %q", line)
		}
	}
	if s := n.hub.Stats(); s.Subscribers != 0 || s.Subscriptions != 0 {
		t.Errorf("left behind: %+v", s)
	}
}
