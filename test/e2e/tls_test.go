//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"pubsub/internal/testkit"
	"strings"
	"testing"
)

// TestTLS: over TLS a page may open more streams than the six connections that a browser allows for
// a host, because the streams share one connection over HTTP/2.
func TestTLS(t *testing.T) {
	const streams = 12
	cert, key := testkit.SelfSigned().WriteFiles(t)
	b := startBrokerWith(t, "https", "wss", "--tls-cert", cert, "--tls-key", key)
	var topics []string
	for i := range streams {
		topics = append(topics, fmt.Sprintf("t%02d", i))
	}
	token := b.token(t, topics, topics)

	t.Run("curl speaks HTTP/2", func(t *testing.T) {
		const format = `%{http_version} %{http_code}`
		out := curl(t, "--http2", "--cacert", cert, "-o", "/dev/null", "-w", format,
			"-d", "hello", "-H", "Authorization: Bearer "+token, b.events("topic", "t00"))
		if out != "2 200" {
			t.Errorf("POST over TLS: HTTP version and status are %q", out)
		}
		headers := filepath.Join(t.TempDir(), "headers")
		s := openCurl(t, b.events("topic", "t00", "auth", token), "--http2", "--cacert", cert, "-D", headers)
		if e := s.next(t); e.kind != "stream-open" {
			t.Fatalf("got %+v", e)
		}
		got, err := os.ReadFile(headers)
		if err != nil || !strings.HasPrefix(string(got), "HTTP/2 200") {
			t.Errorf("the headers of the stream are %q (%v)", got, err)
		}
		b.mustPost(t, token, []byte("over h2"), "topic", "t00")
		if e := s.next(t); e.data != "over h2" {
			t.Errorf("got %+v", e)
		}
	})

	t.Run("a page opens 12 streams over HTTP/2", func(t *testing.T) {
		page := openPage(t)
		for _, topic := range topics {
			// Each open returns while the earlier streams are open.
			page.do(t, "listen", map[string]any{"url": b.events("topic", topic, "auth", token)}, nil)
			e := page.await(t, "response")
			for !strings.HasPrefix(e.URL, b.url) { // the page's own files
				e = page.await(t, "response")
			}
			if e.Protocol != "h2" {
				t.Fatalf("stream of %s over %s", topic, e.Protocol)
			}
		}
		for i, topic := range topics {
			b.mustPost(t, token, []byte(topic), "topic", topic)
			if e := page.await(t, "message"); string(e.Payload) != topic || e.Source != i {
				t.Errorf("stream %d got %q, want %q", e.Source, e.Payload, topic)
			}
		}
	})

	t.Run("MQTT over wss", func(t *testing.T) {
		page := openPage(t)
		c := connectMQTTJS(t, page, b, token)
		c.subscribe(t, "t00")
		c.publish(t, "t00", []byte{0xff, 0, 1}, false)
		expect(t, c.next(t), "t00", []byte{0xff, 0, 1}, false)
	})
}
