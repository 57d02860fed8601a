package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"testing"
	"time"
)

// stream begins an event stream and returns a function that writes to it and flushes.
func stream(w http.ResponseWriter) func(format string, args ...any) {
	w.Header().Set("Content-Type", "text/event-stream")
	return func(format string, args ...any) {
		fmt.Fprintf(w, format, args...)
		w.(http.Flusher).Flush()
	}
}

const open = "event: stream-open\ndata: \n\n"

// TestSubscribeSSE subscribes to a server that ends each stream, and checks the callbacks
// and the requests over all streams.
func TestSubscribeSSE(t *testing.T) {
	var requests []string
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		requests = append(requests, fmt.Sprintf("%s %s %s %q", r.Method, r.URL, r.Header.Get("Authorization"), r.Header.Get("Last-Event-ID")))
		send := stream(w)
		switch len(requests) {
		case 1:
			send(open)
			send("event: message\nid: a:0-1\ndata: {\"topic\":\"a\",\"data\":\"x\\r\\ny\",\"version\":\"0-1\"}\n\n")
			send("event: message\ndata: {\"topic\":\"b\",\"base64\":\"AP8=\"}\n\n")
			send("event: keep-alive\ndata: \n\n")
			send("event: something-new\ndata: x\n\n")
			send("event: messages-dropped\ndata: {\"count\":3}\n\n")
			send("event: keep-alive\nretry: 20\ndata: \n\n")
		case 2:
			send("event: keep-alive\nretry: 10\ndata: \n\n") // the server drains
		case 3:
			send("event: stream-error\nretry: 10\ndata: {\"condition\":\"too-many-connections\",\"text\":\"Too many connections\"}\n\n")
		case 4:
			send(open)
			send("event: message\nid: a:0-2\ndata: {\"topic\":\"a\",\"data\":\"\"}\n\n")
			send("event: stream-error\nretry: 10\ndata: {\"condition\":\"token-expired\",\"text\":\"Token expired\"}\n\n")
		}
	})
	var got []string
	note := func(format string, args ...any) { got = append(got, fmt.Sprintf(format, args...)) }
	err := c.SubscribeSSE(t.Context(), Subscription{
		Topics: []string{"a", "b"}, Token: "tok", Durable: true,
		Message:     func(m Message) error { note("message %s %q %s", m.Topic, m.Data, m.ID); return nil },
		Open:        func() { note("open") },
		Dropped:     func(n uint64) { note("dropped %d", n) },
		Interrupted: func(err error, _ time.Duration) { note("interrupted: %v", err) },
	})
	wantError(t, err, Error{200, TokenExpired, "Token expired"})
	wantLines(t, got,
		"open",
		`message a "x\r\ny" a:0-1`,
		`message b "\x00\xff" `,
		"dropped 3",
		"interrupted: the server closed the connection",
		"interrupted: the server closed the connection",
		"interrupted: Too many connections",
		"open",
		`message a "" a:0-2`,
	)
	wantLines(t, requests,
		`GET /events?durable=true&envelope=true&topic=a&topic=b Bearer tok ""`,
		`GET /events?durable=true&envelope=true&topic=a&topic=b Bearer tok "a:0-1"`,
		`GET /events?durable=true&envelope=true&topic=a&topic=b Bearer tok "a:0-1"`,
		`GET /events?durable=true&envelope=true&topic=a&topic=b Bearer tok "a:0-1"`,
	)
}

func wantLines(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("got:\n%q\nwant:\n%q", got, want)
	}
}

func TestSubscribeSSERefused(t *testing.T) {
	for _, tt := range []struct {
		name   string
		answer http.HandlerFunc
		want   Error
	}{
		{"forbidden", func(w http.ResponseWriter, r *http.Request) {
			stream(w)("event: stream-error\ndata: {\"condition\":\"forbidden\",\"text\":\"Cannot subscribe to topic: a\"}\n\n")
		}, Error{200, Forbidden, "Cannot subscribe to topic: a"}},
		{"switched off", func(w http.ResponseWriter, r *http.Request) { refuse(w, 404, "Not Found") }, Error{404, "", "Not Found"}},
		{"first 503", func(w http.ResponseWriter, r *http.Request) { refuse(w, 503, "Shutting down") }, Error{503, "", "Shutting down"}},
		{"no stream", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "<html>hello") }, Error{200, Foreign, ""}},
		{"no envelope", func(w http.ResponseWriter, r *http.Request) { stream(w)(open + "event: message\ndata: hello\n\n") },
			Error{0, Foreign, "the server does not support the parameter envelope: it may be an older version"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := serve(t, tt.answer)
			if tt.want.Text == "" {
				tt.want.Text = c.base.String() + " is not a Pub/Sub server: it answers 200 OK (text/html)"
			}
			err := c.SubscribeSSE(t.Context(), Subscription{Topics: []string{"a"}, Message: func(Message) error { t.Error("unexpected message"); return nil }})
			wantError(t, err, tt.want)
		})
	}
}

func TestSubscribeSSEEnds(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		stream(w)(open + "event: message\ndata: {\"topic\":\"a\",\"data\":\"x\"}\n\n")
		<-r.Context().Done()
	})
	enough := errors.New("enough")
	err := c.SubscribeSSE(t.Context(), Subscription{Topics: []string{"a"}, Message: func(Message) error { return enough }})
	if err != enough {
		t.Errorf("got %v, want the error of Message", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err = c.SubscribeSSE(ctx, Subscription{Topics: []string{"a"}, Message: func(Message) error { cancel(); return nil }})
	if err != nil {
		t.Errorf("got %v after the context was cancelled, want nil", err)
	}
}

// TestSubscribeSSEBroken breaks the connection within a chunk, between chunks, and within
// an event. The subscriber reconnects each time with the id of the last complete event.
func TestSubscribeSSEBroken(t *testing.T) {
	const head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
	chunk := func(s string) string { return fmt.Sprintf("%x\r\n%s\r\n", len(s), s) }
	message := func(n int) string {
		return fmt.Sprintf("event: message\nid: a:0-%d\ndata: {\"topic\":\"a\",\"data\":\"%[1]d\"}\n\n", n)
	}
	const soon = "event: keep-alive\nretry: 1\ndata: \n\n" // keeps the test quick
	answers := []string{
		head + chunk(open+soon) + chunk(message(1)) + "50\r\nevent: mess",
		head + chunk(open+soon) + chunk(message(2)),
		head + chunk(open+soon+message(3)+message(4)[:20]) + "0\r\n\r\n",
		head + chunk(open+"event: stream-error\nretry: 5000\ndata: {\"condition\":\"token-expired\",\"text\":\"Token expired\"}\n\n") + "0\r\n\r\n",
	}
	var resumed []string
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		resumed = append(resumed, r.Header.Get("Last-Event-ID"))
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		io.WriteString(conn, answers[len(resumed)-1])
		conn.Close()
	})
	var got []string
	err := c.SubscribeSSE(t.Context(), Subscription{
		Topics: []string{"a"}, Durable: true,
		Message: func(m Message) error { got = append(got, string(m.Data)); return nil },
		Interrupted: func(err error, wait time.Duration) {
			got = append(got, err.Error())
			if wait > 100*time.Millisecond {
				t.Errorf("waits for %v, but the server asked for 1 ms", wait)
			}
		},
	})
	wantError(t, err, Error{200, TokenExpired, "Token expired"})
	wantLines(t, got, "1", errConnectionLost.Error(), "2", errConnectionLost.Error(), "3", errConnectionClosed.Error())
	wantLines(t, resumed, "", "a:0-1", "a:0-2", "a:0-3")
}
