package scenario

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"pubsub/internal/config"
	"pubsub/internal/mqtt"
	"pubsub/internal/testkit"
	"pubsub/internal/testkit/wire"
)

// tlsNode is a node that serves TLS, with the certificates that its clients trust.
type tlsNode struct {
	*node
	certFile, keyFile string
	roots             *x509.CertPool
}

// startTLS starts a node with a certificate of its own.
func startTLS(t testing.TB, settings ...func(*config.Config)) *tlsNode {
	t.Helper()
	dir := t.TempDir()
	n := &tlsNode{certFile: filepath.Join(dir, "cert.pem"), keyFile: filepath.Join(dir, "key.pem"), roots: x509.NewCertPool()}
	n.writeCertificate(t, 1)
	withCert := func(c *config.Config) { c.TLSCert, c.TLSKey = config.File(n.certFile), config.File(n.keyFile) }
	n.node = start(t, append(settings, withCert)...)
	n.http.Transport = &http.Transport{TLSClientConfig: n.client(), ForceAttemptHTTP2: true}
	n.key = n.newKey()
	return n
}

// writeCertificate makes a certificate with a serial number, and adds it to those that n's clients
// trust.
func (n *tlsNode) writeCertificate(t testing.TB, serial int64) {
	t.Helper()
	c := testkit.SelfSigned(func(c *x509.Certificate) { c.SerialNumber = big.NewInt(serial) })
	n.roots.AddCert(c.Certificate)
	cert, key := c.PEM()
	for file, text := range map[string][]byte{n.certFile: cert, n.keyFile: key} {
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// client returns TLS settings for a client that offers these protocols.
func (n *tlsNode) client(protocols ...string) *tls.Config {
	return &tls.Config{RootCAs: n.roots, NextProtos: protocols}
}

// dial connects for HTTP/1.1.
func (n *tlsNode) dial() *tls.Conn {
	n.t.Helper()
	c := tls.Client(dial(n.t, n.addr), &tls.Config{RootCAs: n.roots, ServerName: "127.0.0.1", NextProtos: []string{"http/1.1"}})
	if err := c.Handshake(); err != nil {
		n.t.Fatal(err)
	}
	return c
}

// events begins a stream over TLS and HTTP/1.1.
func (n *tlsNode) events(pairs ...string) *wire.SSE {
	n.t.Helper()
	c := wire.Get(n.t, n.dial(), "/events"+wire.Query(pairs...), asAdminLine)
	c.ExpectOpen()
	return c
}

// session opens an MQTT session over wss.
func (n *tlsNode) session(topics ...string) *wire.MQTT {
	n.t.Helper()
	m := wire.Upgrade(n.t, n.dial(), "Sec-WebSocket-Protocol: mqtt")
	if got := m.Header.Get("Sec-Websocket-Protocol"); got != "mqtt" {
		n.t.Errorf("the subprotocol is %q", got)
	}
	m.Connect(adminToken, mqtt.Connect{})
	if len(topics) > 0 {
		m.Subscribe(topics...)
	}
	return m
}

// A slow reader is not closed as long as it accepts bytes, even if one message takes longer than
// write-timeout.
func TestSlowReaderIsNotClosed(t *testing.T) {
	// Long enough that a reader on a busy machine does not look stalled. All 32 pieces take twice
	// as long.
	const timeout, size, piece = 2 * time.Second, 4 << 20, 128 << 10
	large := func(c *config.Config) {
		c.WriteTimeout = timeout
		c.MaxMessageSize = size
		c.SubscriberBuffer = 2 * size
		c.LogLevel = "error"
	}
	read := func(t *testing.T, n *node, s *wire.SSE) {
		data := bytes.Repeat([]byte("x"), size)
		n.publish("t", string(data))
		began := time.Now()
		want := append(append([]byte("event: message\ndata: "), data...), "\n\n"...)
		got := make([]byte, 0, len(want))
		for b := make([]byte, piece); len(got) < len(want); {
			k, err := io.ReadFull(s.Body, b[:min(piece, len(want)-len(got))])
			got = append(got, b[:k]...)
			if err != nil {
				t.Fatalf("after %d of %d bytes and %v: %v", len(got), len(want), time.Since(began), err)
			}
			time.Sleep(timeout / 16) // the reader is slow; this synchronises nothing
		}
		if !bytes.Equal(got, want) {
			t.Error("the message was changed")
		}
		n.publish("t", "next")
		s.Expect("event: message\ndata: next\n")
	}
	t.Run("HTTP/1.1", func(t *testing.T) {
		t.Parallel()
		n := start(t, large)
		read(t, n, n.adminEvents("topic", "t"))
	})
	t.Run("TLS", func(t *testing.T) {
		t.Parallel()
		n := startTLS(t, large)
		read(t, n.node, n.events("topic", "t"))
	})
	t.Run("HTTP/2", func(t *testing.T) {
		t.Parallel()
		n := startTLS(t, large)
		read(t, n.node, n.http2(64<<10).events("topic", "t"))
	})
}

// Streams and sessions over TLS behave like those without it, and so do their ends.
func TestTLS(t *testing.T) {
	n := startTLS(t)
	k := n.newKey()
	s := wire.Get(t, n.dial(), "/events?topic=t&durable=true&auth="+k.token([]string{"t"}, nil, nil))
	if s.Status != "HTTP/1.1 200 OK" || s.Header.Get("Connection") != "close" || s.Header.Get("Transfer-Encoding") != "chunked" {
		t.Errorf("the stream began with %s %v", s.Status, s.Header)
	}
	s.ExpectOpen()
	m := wire.Upgrade(t, n.dial())
	m.Connect(k.token([]string{"t"}, []string{"t"}, nil), mqtt.Connect{})
	m.Subscribe("t")
	admin := n.session("t")
	m.Publish("t", "from a session", false)
	s.Expect("event: message\ndata: from a session\n")
	v := n.publish("t", "posted", "retain=true")
	s.Expect("event: message\nid: t:" + v + "\ndata: posted\n")
	for _, m := range []*wire.MQTT{m, admin} {
		m.Expect("t", "from a session")
		m.Expect("t", "posted")
		m.Ping()
	}
	n.deleteKey(k)
	sseSubscriber{s}.ends(revoked) // with a TLS close_notify
	mqttSubscriber{m}.ends(revoked)
	admin.Ping()
	h := n.http2(0).events("topic", "t")
	n.cancel()
	sseSubscriber{h}.ends(drained)
	mqttSubscriber{admin}.ends(drained)
}
