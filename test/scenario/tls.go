package scenario

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/textproto"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
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
	r, err := http.NewRequestWithContext(ctx, "GET", c.n.url("/events"+wire.Query(pairs...)), body)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Fastly-Key", adminToken)
	resp, err := c.transport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	if resp.ProtoMajor != 2 || resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "text/event-stream" || resp.Header["Connection"] != nil {
		t.Fatalf("%s %s %v", resp.Proto, resp.Status, resp.Header)
	}
	s := &wire.SSE{T: t, Stream: wire.Stream{Conn: bodyConn{cancel: cancel}, Body: bufio.NewReader(resp.Body), Status: resp.Status,
		Header: textproto.MIMEHeader(resp.Header)}}
	s.ExpectOpen()
	return s
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
		t.Errorf("%s %v", s.Status, s.Header)
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
