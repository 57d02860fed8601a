package scenario

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
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

// sockets waits until the node has that many TCP connections of clients.
func (n *node) sockets(t *testing.T, want float64) {
	t.Helper()
	if !within(func() bool { return n.metric("pubsub_sockets ") == want }) {
		t.Fatalf("%v sockets, want %v", n.metric("pubsub_sockets "), want)
	}
}

// answered sends a request over c, which stays, and reads the answer.
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
	readAll(t, resp.Body)
	resp.Body.Close()
}

// closedByServer waits until c is closed by the other side.
func closedByServer(t *testing.T, what string, c net.Conn) {
	t.Helper()
	deadline(c)
	if b, err := io.ReadAll(c); err != nil && !isEnd(err) || len(b) > 0 {
		t.Fatalf("%s: %.100q, %v", what, b, err)
	}
}

// silent checks that nothing has come over c so far. The broker has had time: the
// caller has asked it for something that came later.
func silent(t *testing.T, what string, c net.Conn) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(time.Millisecond))
	if n, err := c.Read(make([]byte, 1)); n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("%s: %d bytes, %v", what, n, err)
	}
	deadline(c)
}

// "max-sockets bounds all accepted TCP connections, those that idle between requests or
// have said nothing included; at the bound the longest idle one without a request is
// closed for a new one".
func TestMaxSockets(t *testing.T) {
	n := start(t, func(c *config.Config) { c.MaxSockets = 4 })
	n.http.CloseIdleConnections()
	n.sockets(t, 0)
	mute := dial(t, n.addr)
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
	closedByServer(t, "the one that has idled longest", mute)
	answered(t, kept) // from now on it has idled for a shorter time than half
	next := dial(t, n.addr)
	closedByServer(t, "the one with half a request", half)
	for _, c := range []net.Conn{kept, later, next} {
		answered(t, c)
	}
	n.sockets(t, 4)
	if got := n.metric(`pubsub_sockets_closed_total{limit="max-sockets"}`); got != 2 {
		t.Errorf("%v closed", got)
	}
	for _, c := range []net.Conn{kept, later, next} {
		c.Close()
	}
	n.sockets(t, 1)
	n.publish("t", "x")
	stream.Expect("event: message\ndata: x\n")
}

// "… and where there is none, nothing is accepted until one ends; counted, and logged
// once a minute". Streams and sessions count, whoever holds them, and so does a body
// that does not come.
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
		waiting := dial(t, n.addr) // into the kernel's queue
		if _, err := io.WriteString(waiting, request("GET", "/", lastRequest)); err != nil {
			t.Fatal(err)
		}
		session.Publish("t", "x", false)
		session.Expect("t", "x")
		stream.Expect("event: message\ndata: x\n")
		silent(t, "one that comes when all are busy", waiting)
		stream.Conn.Close()
		if got := status(readAll(t, waiting)); got != "200 OK" {
			t.Errorf("once a stream has ended: %q", got)
		}
		n.sockets(t, 2)
		stream = n.adminEvents("topic", "t")
	}
	if _, err := io.WriteString(post, "34"); err != nil {
		t.Fatal(err)
	}
	if resp, err := http.ReadResponse(bufio.NewReader(post), nil); err != nil || resp.StatusCode != 200 {
		t.Errorf("the body that came at last: %v, %v", resp, err)
	}
	stream.Expect("event: message\ndata: 1234\n")
	if got := n.metric("pubsub_accept_pauses_total "); got < 1 {
		t.Errorf("waited %v times", got)
	}
	if got := n.metric(`pubsub_sockets_closed_total{limit="max-sockets"}`); got != closed {
		t.Errorf("%v were closed meanwhile", got-closed)
	}
	if got := strings.Count(n.log.String(), "connection limit reached"); got != 1 {
		t.Errorf("logged %d times:\n%s", got, n.log)
	}
}

// A TLS handshake that stalls counts from when the connection is accepted, and idles;
// so does a connection over HTTP/2 without a stream.
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
	closedByServer(t, "the first handshake that stalls", stalled[0])
	answered(t, kept)
	idle := tls.Client(dial(t, n.addr), n.clientFor("h2"))
	closedByServer(t, "the second handshake that stalls", stalled[1])
	if err := idle.Handshake(); err != nil {
		t.Fatal(err)
	}
	ping := append([]byte{0, 0, 8, 6, 0, 0, 0, 0, 0}, "anything"...)
	if _, err := idle.Write(append(http2Preface, ping...)); err != nil {
		t.Fatal(err)
	}
	var got []byte
	for !strings.HasSuffix(string(got), "anything") { // its answer
		var b [1]byte
		if _, err := idle.Read(b[:]); err != nil {
			t.Fatal(err)
		}
		got = append(got, b[0])
	}
	answered(t, n.dial())
	answered(t, n.dial())
	if _, err := kept.Read(make([]byte, 1)); err != io.EOF && !isEnd(err) {
		t.Errorf("the connection that was kept alive: %v", err)
	}
	if _, err := io.Copy(io.Discard, idle); err != nil && !isEnd(err) && err != io.ErrUnexpectedEOF {
		t.Errorf("HTTP/2 without a stream: %v", err)
	}
	n.publish("t", "x")
	stream.Expect("event: message\ndata: x\n")
}

// http2Preface is how an HTTP/2 client begins: the preface, and empty settings.
var http2Preface = []byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")

// clientFor returns the settings of a TLS client of this machine.
func (n *tlsNode) clientFor(protocol string) *tls.Config {
	return &tls.Config{RootCAs: n.roots, ServerName: "127.0.0.1", NextProtos: []string{protocol}}
}

// Operators can connect whatever clients do: their listener has a bound of its own, at
// which the longest idle connection is closed, too.
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
		t.Errorf("%v sockets: those of operators are not clients'", got)
	}
}

// "SIGHUP reloads … limits".
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
		t.Errorf("by default %v sockets", got)
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

// "max-connections-per-ip counts them too": an address has no more idle connections
// than that, and what it has besides its streams is closed for a new one.
func TestMaxConnectionsPerIPCountsSockets(t *testing.T) {
	alice, bob := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	for _, o := range origins[1:] { // of the PROXY protocol
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
	// A proxy that speaks HTTP has as many connections as it likes: whose requests they
	// carry is told with each.
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

// testSocketsPerIP checks a bound of 3 with connections of one address that dial makes;
// other is of another.
func testSocketsPerIP(t *testing.T, n *node, other net.Conn, dial func() net.Conn) {
	answered(t, other)
	var cs []net.Conn
	for range 10 {
		cs = append(cs, dial())
	}
	n.sockets(t, 4)

	// Streams count as well, and those over the bound are told.
	for range 3 {
		wire.Get(t, dial(), "/events?topic=t", asAdminLine).ExpectOpen()
	}
	for _, c := range cs {
		closedByServer(t, "one that idles beside streams", c)
	}
	if e := wire.Get(t, dial(), "/events?topic=t", asAdminLine).Next(); e.Data != `{"condition":"too-many-connections","text":"Too many connections"}` {
		t.Errorf("the fourth stream: %q", e.Raw)
	}
	n.sockets(t, 5)

	// Whoever keeps three busy otherwise, too, is not let in.
	for range 3 {
		c := dial()
		if _, err := io.WriteString(c, request("POST", "/events?topic=t", asAdminLine, "Content-Length: 4", "Expect: 100-continue")); err != nil {
			t.Fatal(err)
		}
		if line, err := bufio.NewReader(c).ReadString('\n'); err != nil || line != "HTTP/1.1 100 Continue\r\n" {
			t.Fatalf("%q, %v", line, err)
		}
	}
	n.sockets(t, 7) // the one that was refused has been closed for them
	for range 3 {
		c := dial()
		io.WriteString(c, request("GET", "/")) // it may be reset already
		closedByServer(t, "one of an address that is busy", c)
	}
	if got := n.metric(`pubsub_sockets_closed_total{limit="max-connections-per-ip"}`); got != 7+3+1+3 {
		t.Errorf("%v closed", got)
	}
	answered(t, other)
}

// "A kept-alive connection without a request is closed after idle-timeout", over
// HTTP/1.1 and HTTP/2; a stream is not.
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
			// GET / by https, and an authority of one letter (RFC 7541 appendix A).
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

// Fields are counted before they are kept, 100 at most.
func TestHeaderFields(t *testing.T) {
	n := startTLS(t)
	plain := start(t)
	const tooLarge = "431 Request Header Fields Too Large"
	// Host and Connection are fields, too.
	head := func(fields int) string {
		var more []string
		for i := range fields - 2 {
			more = append(more, fmt.Sprintf("x%d:y", i))
		}
		return request("GET", "/", append(more, lastRequest)...)
	}
	for fields, want := range map[int]string{100: "200 OK", 101: tooLarge, 5000: tooLarge} {
		if got := status(exchange(t, plain.addr, []byte(head(fields)))); got != want {
			t.Errorf("%d fields: %q", fields, got)
		}
		c := n.dial()
		go io.WriteString(c, head(fields))
		deadline(c)
		if b, err := io.ReadAll(c); err != nil || status(string(b)) != want {
			t.Errorf("%d fields over TLS: %q, %v", fields, b, err)
		}
		r, err := http.NewRequest("GET", n.url("/"), nil)
		if err != nil {
			t.Fatal(err)
		}
		for i := range min(fields, 1000) - 2 { // and Accept-Encoding, and User-Agent
			r.Header[fmt.Sprint("X", i)] = []string{"y"}
		}
		resp, err := n.http2(0).transport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.Status != want {
			t.Errorf("%d fields over HTTP/2: %s", fields, resp.Status)
		}
	}
	// What begins like HTTP/2, and goes on like HTTP/1.1.
	c := n.dial()
	go io.WriteString(c, "PRI * HTTP/2.0\r\n"+strings.Repeat("a:b\r\n", 5000)+"\r\n")
	if b, err := io.ReadAll(c); err != nil || status(string(b)) != tooLarge {
		t.Errorf("half the preface of HTTP/2: %q, %v", b, err)
	}
	// Whatever the end of lines, and for each request anew: 60 of each are fine.
	lf := strings.ReplaceAll(request("GET", "/", lastRequest), "\r\n", "\n")
	lf = strings.Replace(lf, "\n", strings.Repeat("\na:b", 101), 1)
	if got := status(exchange(t, plain.addr, []byte(lf))); got != tooLarge {
		t.Errorf("lines that end in LF: %q", got)
	}
	p := dial(t, plain.addr)
	r := bufio.NewReader(p)
	body := strings.Repeat("\n", 200)
	for i := range 5 {
		deadline(p)
		req := request("POST", "/events?topic=t", asAdminLine, strings.Repeat("a:b\r\n", 60)+"Content-Length: 200") + body
		if i == 3 {
			req = "\r\n" + req // tolerated, after a POST
		}
		if _, err := io.WriteString(p, req); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := readAll(t, resp.Body); resp.StatusCode != 200 {
			t.Errorf("request %d: %s %q", i, resp.Status, got)
		}
	}
	// Sent without waiting for the answer to the one before; Host is not counted then.
	two := request("HEAD", "/") + head(102)
	if got := exchange(t, plain.addr, []byte(two)); !strings.Contains(got, tooLarge) {
		t.Errorf("the second of two requests: %q", got)
	}
}

// A client that speaks HTTP to a port for TLS gets an answer that says so.
func TestHTTPToTLS(t *testing.T) {
	n := startTLS(t)
	got := exchange(t, n.addr, []byte(request("GET", "/")))
	if !within(func() bool { return strings.Contains(n.log.String(), "TLS handshake failed") }) {
		t.Error("the log says nothing of it")
	}
	if status(got) != "400 Bad Request" || content(got) != "Client sent an HTTP request to an HTTPS server.\n" {
		t.Errorf("%q", got)
	}
}
