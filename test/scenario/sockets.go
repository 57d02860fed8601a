package scenario

import (
	"bufio"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"pubsub/internal/config"
	"pubsub/internal/testkit/wire"
)

// sockets waits until the node has want TCP connections of clients.
func (n *node) sockets(t *testing.T, want float64) {
	t.Helper()
	if !within(func() bool { return n.metric("pubsub_sockets ") == want }) {
		t.Fatalf("%v sockets, want %v", n.metric("pubsub_sockets "), want)
	}
}

// answered sends a request over c and reads the response. The connection stays open.
func answered(t *testing.T, c net.Conn) {
	t.Helper()
	deadline(c)
	if _, err := io.WriteString(c, request("GET", "/")); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	wire.ReadAll(t, resp.Body)
	resp.Body.Close()
}

// closedByServer waits until the server closes c.
func closedByServer(t *testing.T, what string, c net.Conn) {
	t.Helper()
	deadline(c)
	if b, err := io.ReadAll(c); err != nil && !isEnd(err) || len(b) > 0 {
		t.Fatalf("%s: %.100q, %v", what, b, err)
	}
}

// silent checks that nothing has arrived over c. The caller must have received a later response
// from the node.
func silent(t *testing.T, what string, c net.Conn) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(time.Millisecond))
	if n, err := c.Read(make([]byte, 1)); n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("%s: %d bytes, %v", what, n, err)
	}
	deadline(c)
}

// max-sockets bounds all accepted TCP connections, including those that are idle between requests
// or have sent nothing. At the bound, a new connection closes the one that has been idle longest
// without a request.
func TestMaxSockets(t *testing.T) {
	n := start(t, func(c *config.Config) { c.MaxSockets = 4 })
	n.http.CloseIdleConnections()
	n.sockets(t, 0)
	unused := dial(t, n.addr)
	n.sockets(t, 1)
	half := dial(t, n.addr)
	if _, err := io.WriteString(half, "GET / HTTP/1.1\r\nHost: bro"); err != nil {
		t.Fatal(err)
	}
	n.sockets(t, 2)
	kept := dial(t, n.addr)
	answered(t, kept)
	stream := n.adminEvents("topic", "t")
	n.sockets(t, 4)

	later := dial(t, n.addr)
	closedByServer(t, "the longest idle connection", unused)
	answered(t, kept) // now half has been idle longer than the others
	next := dial(t, n.addr)
	closedByServer(t, "the connection with half a request", half)
	for _, c := range []net.Conn{kept, later, next} {
		answered(t, c)
	}
	n.sockets(t, 4)
	if got := n.metric(`pubsub_sockets_closed_total{limit="max-sockets"}`); got != 2 {
		t.Errorf("%v connections were closed", got)
	}
	for _, c := range []net.Conn{kept, later, next} {
		c.Close()
	}
	n.sockets(t, 1)
	n.publish("t", "x")
	stream.Expect("event: message\ndata: x\n")
}

// If all connections are busy, the node accepts no other until one ends. It counts the waits and
// logs them once a minute. Streams and sessions are busy with both holders, and so is a body that
// does not arrive.
func TestMaxSocketsAllBusy(t *testing.T) {
	n := start(t, func(c *config.Config) { c.MaxSockets = 3 })
	stream, session := n.adminEvents("topic", "t"), n.adminClient("t")
	post := dial(t, n.addr)
	if _, err := io.WriteString(post, request("POST", "/events?topic=t", asAdminLine, "Content-Length: 4")+"12"); err != nil {
		t.Fatal(err)
	}
	closed := n.metric(`pubsub_sockets_closed_total{limit="max-sockets"}`)
	n.sockets(t, 3)
	for range 3 {
		waiting := dial(t, n.addr) // in the kernel's queue
		if _, err := io.WriteString(waiting, request("GET", "/", lastRequest)); err != nil {
			t.Fatal(err)
		}
		session.Publish("t", "x", false)
		session.Expect("t", "x")
		stream.Expect("event: message\ndata: x\n")
		silent(t, "a connection while all are busy", waiting)
		stream.Conn.Close()
		if got := status(wire.ReadAll(t, waiting)); got != "200 OK" {
			t.Errorf("after a stream has ended: %q", got)
		}
		n.sockets(t, 2)
		stream = n.adminEvents("topic", "t")
	}
	if _, err := io.WriteString(post, "34"); err != nil {
		t.Fatal(err)
	}
	if resp, err := http.ReadResponse(bufio.NewReader(post), nil); err != nil || resp.StatusCode != 200 {
		t.Errorf("the body that was late: %v, %v", resp, err)
	}
	stream.Expect("event: message\ndata: 1234\n")
	if got := n.metric("pubsub_accept_pauses_total "); got < 1 {
		t.Errorf("%v pauses", got)
	}
	if got := n.metric(`pubsub_sockets_closed_total{limit="max-sockets"}`); got != closed {
		t.Errorf("%v connections were closed", got-closed)
	}
	if got := strings.Count(n.log.String(), "connection limit reached"); got != 1 {
		t.Errorf("logged %d times:\n%s", got, n.log)
	}
}

// A connection in a stalled TLS handshake counts from the moment when it is accepted, and is idle.
// So is an HTTP/2 connection without a stream.
func TestMaxSocketsTLS(t *testing.T) {
	n := startTLS(t, func(c *config.Config) { c.MaxSockets = 3 })
	c := n.http2(0)
	stream := c.events("topic", "t")
	n.http.CloseIdleConnections()
	n.sockets(t, 1)
	var stalled []*net.TCPConn
	for i := range 2 {
		stalled = append(stalled, dial(t, n.addr))
		if _, err := stalled[i].Write([]byte{22, 3, 1, 2, 0, 1, 0}); err != nil { // half a ClientHello
			t.Fatal(err)
		}
		n.sockets(t, float64(2+i))
	}
	kept := n.dial()
	closedByServer(t, "the first stalled handshake", stalled[0])
	answered(t, kept)
	idle := tls.Client(dial(t, n.addr), n.clientFor("h2"))
	closedByServer(t, "the second stalled handshake", stalled[1])
	if err := idle.Handshake(); err != nil {
		t.Fatal(err)
	}
	ping := append([]byte{0, 0, 8, 6, 0, 0, 0, 0, 0}, "anything"...)
	if _, err := idle.Write(append(http2Preface, ping...)); err != nil {
		t.Fatal(err)
	}
	var got []byte
	for !strings.HasSuffix(string(got), "anything") { // its response
		var b [1]byte
		if _, err := idle.Read(b[:]); err != nil {
			t.Fatal(err)
		}
		got = append(got, b[0])
	}
	answered(t, n.dial())
	answered(t, n.dial())
	if _, err := kept.Read(make([]byte, 1)); err != io.EOF && !isEnd(err) {
		t.Errorf("the idle connection: %v", err)
	}
	if _, err := io.Copy(io.Discard, idle); err != nil && !isEnd(err) && err != io.ErrUnexpectedEOF {
		t.Errorf("HTTP/2 without a stream: %v", err)
	}
	n.publish("t", "x")
	stream.Expect("event: message\ndata: x\n")
}

// http2Preface begins an HTTP/2 connection: the preface, and empty SETTINGS.
var http2Preface = []byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")

// clientFor returns TLS settings for a client of one protocol.
func (n *tlsNode) clientFor(protocol string) *tls.Config {
	return &tls.Config{RootCAs: n.roots, ServerName: "127.0.0.1", NextProtos: []string{protocol}}
}

// Operators can connect even if clients take all sockets: the ops listener has a bound of its own.
// At that bound it closes the longest idle connection, too.
func TestOpsAtMaxSockets(t *testing.T) {
	n := start(t, func(c *config.Config) { c.MaxSockets = 1 })
	n.adminEvents("topic", "t")
	first := dial(t, n.ops)
	for range 80 { // the bound is 64 at most
		if _, err := dial(t, n.ops).Write([]byte("GET /met")); err != nil {
			t.Fatal(err)
		}
	}
	closedByServer(t, "the first of many at the ops listener", first)
	n.http.CloseIdleConnections()
	if got := n.metric("pubsub_sockets "); got != 1 {
		t.Errorf("%v sockets, want 1: the operators' do not count", got)
	}
}

// SIGHUP reloads max-sockets.
func TestReloadOfMaxSockets(t *testing.T) {
	n := start(t, func(c *config.Config) { c.MaxSockets = 2 })
	n.http.CloseIdleConnections()
	n.sockets(t, 0)
	n.adminEvents("topic", "t")
	n.adminEvents("topic", "t")
	waiting := dial(t, n.addr)
	n.change(func(c *config.Config) { c.MaxSockets = 3 })
	answered(t, waiting)
	n.change(func(c *config.Config) { c.MaxSockets = 0 })
	if got := n.metric("pubsub_sockets_max "); got < 100 {
		t.Errorf("%v sockets with the default", got)
	}
	for range 10 {
		answered(t, dial(t, n.addr))
	}
	n.sockets(t, 13)
	n.change(func(c *config.Config) { c.MaxSockets = 5 })
	answered(t, dial(t, n.addr))
	n.sockets(t, 5)
	closedByServer(t, "one that idles over the new bound", waiting)
}

// max-connections-per-ip also counts idle connections. At the bound, a new connection of an address
// closes an idle one.
func TestMaxConnectionsPerIPCountsSockets(t *testing.T) {
	alice, bob := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	for _, o := range origins[1:] { // those of the PROXY protocol
		t.Run(o.name, func(t *testing.T) {
			n := start(t, func(c *config.Config) {
				c.MaxConnectionsPerIP = 3
				c.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
			})
			n.http.CloseIdleConnections()
			n.sockets(t, 0)
			conn := func(a netip.Addr) net.Conn {
				c, _ := o.dialAs(n, a)
				return c
			}
			testSocketsPerIP(t, n, conn(bob), func() net.Conn { return conn(alice) })
		})
	}
	t.Run("no proxy", func(t *testing.T) {
		n := start(t, func(c *config.Config) { c.MaxConnectionsPerIP = 3 })
		n.http.CloseIdleConnections()
		n.sockets(t, 0)
		bob := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}})
		c, err := bob.Dial("tcp", n.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		testSocketsPerIP(t, n, c, func() net.Conn { return dial(t, n.addr) })
	})
	// A proxy that speaks HTTP may have any number of connections, because each request names its
	// client.
	t.Run("an HTTP proxy", func(t *testing.T) {
		n := start(t, func(c *config.Config) {
			c.MaxConnectionsPerIP = 3
			c.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
		})
		n.http.CloseIdleConnections()
		n.sockets(t, 0)
		var cs []net.Conn
		for range 10 {
			c := dial(t, n.addr)
			answered(t, c)
			cs = append(cs, c)
		}
		n.sockets(t, 10)
		for _, c := range cs {
			answered(t, c)
		}
	})
}

// testSocketsPerIP checks a bound of 3 connections from one address. dial makes them, and other is
// a connection from another address.
func testSocketsPerIP(t *testing.T, n *node, other net.Conn, dial func() net.Conn) {
	answered(t, other)
	var cs []net.Conn
	for range 10 {
		cs = append(cs, dial())
	}
	n.sockets(t, 4)

	// Streams count, too, and a stream over the bound is refused.
	for range 3 {
		wire.Get(t, dial(), "/events?topic=t", asAdminLine).ExpectOpen()
	}
	for _, c := range cs {
		closedByServer(t, "one that idles beside streams", c)
	}
	refused := dial()
	if e := wire.Get(t, refused, "/events?topic=t", asAdminLine).Next(); e.Data != `{"condition":"too-many-connections","text":"Too many connections"}` {
		t.Errorf("the fourth stream: %q", e.Raw)
	}
	n.sockets(t, 5)
	refused.Close()
	n.sockets(t, 4)

	// An address that keeps three other connections busy cannot open a fourth.
	for range 3 {
		c := dial()
		if _, err := io.WriteString(c, request("POST", "/events?topic=t", asAdminLine, "Content-Length: 4", "Expect: 100-continue")); err != nil {
			t.Fatal(err)
		}
		if line, err := bufio.NewReader(c).ReadString('\n'); err != nil || line != "HTTP/1.1 100 Continue\r\n" {
			t.Fatalf("%q, %v", line, err)
		}
	}
	n.sockets(t, 7)
	for range 3 {
		c := dial()
		io.WriteString(c, request("GET", "/")) // it may have been reset
		closedByServer(t, "a connection of a busy address", c)
	}
	if got := n.metric(`pubsub_sockets_closed_total{limit="max-connections-per-ip"}`); got != 7+3+3 {
		t.Errorf("%v connections were closed", got)
	}
	answered(t, other)
}

// A kept-alive connection without a request is closed after idle-timeout, over HTTP/1.1 and HTTP/2,
// but a stream stays.
func TestIdleTimeout(t *testing.T) {
	const timeout = 300 * time.Millisecond
	n := startTLS(t, func(c *config.Config) { c.IdleTimeout = timeout })
	stream, client := n.events("topic", "t"), n.http2(0)
	h2stream := client.events("topic", "t")
	for name, request := range map[string]func() net.Conn{
		"HTTP/1.1": func() net.Conn {
			c := n.dial()
			answered(t, c)
			return c
		},
		"HTTP/2": func() net.Conn {
			c := tls.Client(dial(t, n.addr), n.clientFor("h2"))
			// GET / with https and an authority of one letter (RFC 7541 appendix A).
			head := []byte{0, 0, 6, 1, 5, 0, 0, 0, 1, 0x82, 0x84, 0x87, 0x01, 0x01, 'b'}
			if _, err := c.Write(append(http2Preface, head...)); err != nil {
				t.Fatal(err)
			}
			return c
		},
	} {
		begun := time.Now()
		c := request()
		deadline(c)
		if _, err := io.Copy(io.Discard, c); err != nil && !isEnd(err) {
			t.Errorf("%s: %v", name, err)
		}
		if took := time.Since(begun); took < timeout {
			t.Errorf("%s: closed after %v", name, took)
		}
	}
	n.publish("t", "x")
	for _, s := range []*wire.SSE{stream, h2stream} {
		s.Expect("event: message\ndata: x\n")
	}
}
