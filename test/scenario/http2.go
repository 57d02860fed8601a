package scenario

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"pubsub/internal/config"
	"pubsub/internal/testkit/wire"
)

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
		r, err := http.NewRequest(tt.method, n.url(tt.target), strings.NewReader("hello"))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Fastly-Key", adminToken)
		resp, err := c.transport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		body := wire.WithoutRetry(wire.ReadAll(t, resp.Body))
		resp.Body.Close()
		if resp.ProtoMajor != 2 || resp.StatusCode != tt.status || body != tt.body {
			t.Errorf("%s %s: %s %s %q", tt.method, tt.target, resp.Proto, resp.Status, body)
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
