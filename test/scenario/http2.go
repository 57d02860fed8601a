package scenario

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"pubsub/internal/config"
	"pubsub/internal/testkit/wire"
)

// http2 is a client whose streams share connections.
type http2 struct {
	n         *tlsNode
	transport *http.Transport
	dialled   atomic.Int64
}

// http2 returns a client that accepts window bytes of a stream before it reads them.
func (n *tlsNode) http2(window int) *http2 {
	c := &http2{n: n}
	c.transport = &http.Transport{
		TLSClientConfig:   n.client("h2"),
		ForceAttemptHTTP2: true,
		HTTP2:             &http.HTTP2Config{MaxReceiveBufferPerStream: window},
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			c.dialled.Add(1)
			return new(net.Dialer).DialContext(ctx, network, addr)
		},
	}
	n.t.Cleanup(c.transport.CloseIdleConnections)
	return c
}

// bodyConn presents the body of a response as a connection, of which wire.SSE only uses the
// deadlines. They have no effect: patience bounds the whole stream.
type bodyConn struct {
	net.Conn
	cancel context.CancelFunc
}

func (bodyConn) SetDeadline(time.Time) error { return nil }

func (b bodyConn) Close() error { b.cancel(); return nil }

// events begins a stream, with the administrator's token.
func (c *http2) events(pairs ...string) *wire.SSE {
	c.n.t.Helper()
	return c.send(nil, pairs...)
}

// send begins a stream with a request that has a body.
func (c *http2) send(body io.Reader, pairs ...string) *wire.SSE {
	t := c.n.t
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	resp := c.roundTrip(ctx, "GET", "/events"+wire.Query(pairs...), body)
	t.Cleanup(func() { resp.Body.Close() })
	if resp.ProtoMajor != 2 || resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "text/event-stream" || resp.Header["Connection"] != nil {
		t.Fatalf("the stream began with %s %s %v", resp.Proto, resp.Status, resp.Header)
	}
	s := &wire.SSE{T: t, Stream: wire.Stream{Conn: bodyConn{cancel: cancel}, Body: bufio.NewReader(resp.Body), Status: resp.Status,
		Header: textproto.MIMEHeader(resp.Header)}}
	s.ExpectOpen()
	return s
}

// roundTrip sends a request with the administrator's token.
func (c *http2) roundTrip(ctx context.Context, method, target string, body io.Reader) *http.Response {
	c.n.t.Helper()
	r, err := http.NewRequestWithContext(ctx, method, c.n.url(target), body)
	if err != nil {
		c.n.t.Fatal(err)
	}
	r.Header.Set("Fastly-Key", adminToken)
	resp, err := c.transport.RoundTrip(r)
	if err != nil {
		c.n.t.Fatal(err)
	}
	return resp
}

// Twenty streams share a connection, and each receives only its own events. When a client cancels
// one, the server forgets it, and the others continue.
func TestHTTP2Streams(t *testing.T) {
	const streams = 20
	n := startTLS(t)
	c := n.http2(0)
	topic := func(i int) string { return fmt.Sprint("t", i) }
	var ss []*wire.SSE
	for i := range streams {
		ss = append(ss, c.events("topic", topic(i), "topic", "all"))
	}
	check := func(ss []*wire.SSE, from int) {
		t.Helper()
		n.publish("all", "to all")
		for i := range ss {
			n.publish(topic(from+i), "to "+topic(from+i))
		}
		for i, s := range ss {
			s.Expect("event: message\ndata: to all\n")
			s.Expect("event: message\ndata: to " + topic(from+i) + "\n")
		}
	}
	check(ss, 0)
	if got := c.dialled.Load(); got != 1 {
		t.Errorf("%d connections", got)
	}
	for i := range 5 {
		ss[i].Conn.Close()
	}
	if !within(func() bool {
		return n.metric("pubsub_connections{") == streams-5 && n.metric("pubsub_subscriptions") == 2*(streams-5)
	}) {
		t.Errorf("%v connections with %v subscriptions remain", n.metric("pubsub_connections{"), n.metric("pubsub_subscriptions"))
	}
	check(ss[5:], 5)
	// When the server ends a stream, only its body ends, not the connection.
	k := n.newKey()
	s := c.events("topic", "t", "auth", k.token([]string{"t"}, nil, nil))
	s.Conn.Close()
	n.deleteKey(k)
	check(ss[5:], 5)
}

// A stalled stream does not slow the others of its connection. It is closed after write-timeout,
// and only the stream, not the connection.
func TestHTTP2StalledReader(t *testing.T) {
	// Long enough that a reader on a busy machine does not look stalled.
	n := startTLS(t, func(c *config.Config) { c.WriteTimeout = 2 * time.Second })
	c := n.http2(64 << 10)
	stalled := c.events("topic", "t")
	fast := []*wire.SSE{c.events("topic", "t"), c.events("topic", "t")}
	data := strings.Repeat("x", 16<<10)
	for i := 0; ; i++ {
		n.publish("t", data)
		for _, s := range fast {
			s.Expect("event: message\ndata: " + data + "\n")
		}
		if n.metric("pubsub_connections{") == 2 {
			break
		}
		if i == 5000 {
			t.Fatal("the stalled stream is still open")
		}
	}
	if b, err := io.ReadAll(stalled.Body); err == nil && len(b) > 256<<10 {
		t.Errorf("%d bytes were pending", len(b))
	}
	n.publish("t", "end")
	for _, s := range fast {
		s.Expect("event: message\ndata: end\n")
	}
	if got := c.dialled.Load(); got != 1 {
		t.Errorf("%d connections", got)
	}
}

// write-timeout closes only clients that do not read pending data, not those for which there is
// none.
func TestSilentHTTP2StreamStays(t *testing.T) {
	n := startTLS(t, func(c *config.Config) { c.WriteTimeout = 200 * time.Millisecond })
	s := n.http2(0).events("topic", "t")
	for _, data := range []string{"a", "b"} {
		time.Sleep(500 * time.Millisecond) // more than twice the timeout
		n.publish("t", data)
		s.Expect("event: message\ndata: " + data + "\n")
	}
}

// The client of an HTTP/2 stream that the server ends reads the last event and then the end of the
// body, never a reset.
func TestHTTP2StreamEndsWhole(t *testing.T) {
	n := startTLS(t)
	var streams []*wire.SSE
	c := n.http2(0)
	for range 50 {
		streams = append(streams, c.events("topic", "t"))
	}
	n.cancel()
	for _, s := range streams {
		sseSubscriber{s}.ends(drained)
	}
}

// Requests other than streams have the same responses over HTTP/2, without the header fields that
// HTTP/2 forbids (RFC 9113 section 8.2.2).
func TestHTTP2Requests(t *testing.T) {
	n := startTLS(t)
	c := n.http2(0)
	s := c.events("topic", "t")
	for _, tt := range []struct {
		method, target string
		status         int
		body           string
	}{
		{"POST", "/events?topic=t", 200, "Published\n"},
		{"POST", "/events?topic=%2B", 400, "Invalid topic: +\n"},
		{"GET", "/events", 200, "event: stream-error\ndata: {\"condition\":\"bad-request\",\"text\":\"Missing 'topic' parameter\"}\n\n"},
		{"HEAD", "/events?topic=t", 200, ""},
		{"GET", "/mqtt", 426, "Upgrade Required\n"},
		{"GET", "/nowhere", 404, "Not Found\n"},
	} {
		resp := c.roundTrip(t.Context(), tt.method, tt.target, strings.NewReader("hello"))
		body := wire.WithoutRetry(wire.ReadAll(t, resp.Body))
		resp.Body.Close()
		if resp.ProtoMajor != 2 || resp.StatusCode != tt.status || body != tt.body {
			t.Errorf("%s %s: got %s %s %q, want %d %q", tt.method, tt.target, resp.Proto, resp.Status, body, tt.status, tt.body)
		}
		for _, name := range []string{"Connection", "Upgrade", "Transfer-Encoding"} {
			if resp.Header.Get(name) != "" {
				t.Errorf("%s %s: %s over HTTP/2", tt.method, tt.target, name)
			}
		}
	}
	s.Expect("event: message\ndata: hello\n")
}

// Request headers over 64 KiB in all are refused over HTTP/2, too.
func TestHTTP2RequestHeaders(t *testing.T) {
	n := startTLS(t)
	c := n.http2(0)
	for size, served := range map[int]bool{63 << 10: true, 66 << 10: false} {
		r, err := http.NewRequest("GET", n.url("/"), nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("X-Filler", strings.Repeat("x", size))
		// The client does not send a header over the limit that the server has announced.
		resp, err := c.transport.RoundTrip(r)
		if err == nil {
			resp.Body.Close()
		}
		if got := err == nil && resp.StatusCode == 200; got != served {
			t.Errorf("%d bytes: served %v, error %v", size, got, err)
		}
	}
}
