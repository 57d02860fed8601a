package server

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pires/go-proxyproto"

	"pubsub/internal/conn"
)

// socket is a TCP connection that a [Sockets] counts. Write fails once the peer has taken no
// byte for the write timeout, however long Write takes.
type socket struct {
	// immutable
	net.Conn
	sockets *Sockets

	limit conn.WriteLimit // owned by the writer

	// guarded by sockets.mu
	group       *addressGroup // nil if k is not counted for an address
	inAll       socketLink    // in Sockets.idle
	inGroup     socketLink    // in group.idle
	streams     int32         // over HTTP/2
	bodies      int32         // of requests, that k waits for
	counted     bool          // by sockets, until k is closed
	idle, fresh bool          // whether k is in the lists; whether it has had no request yet
}

func (k *socket) linkInAll() *socketLink   { return &k.inAll }
func (k *socket) linkInGroup() *socketLink { return &k.inGroup }

// Close closes the connection, then stops counting it.
func (k *socket) Close() error {
	err := k.Conn.Close()
	k.sockets.mu.Lock()
	defer k.sockets.mu.Unlock()
	k.sockets.forget(k)
	return err
}

// Write writes all of b unless the peer stops taking bytes.
func (k *socket) Write(b []byte) (n int, err error) {
	timeout := k.sockets.o.WriteTimeout
	if timeout <= 0 {
		return k.Conn.Write(b)
	}
	return k.limit.Write(k.Conn, timeout, b)
}

// SetWriteDeadline sets the deadline of future writes. It can only shorten the write timeout.
func (k *socket) SetWriteDeadline(t time.Time) error {
	if t.IsZero() && k.sockets.o.WriteTimeout > 0 {
		return nil
	}
	return k.Conn.SetWriteDeadline(t)
}

// SetDeadline sets the deadlines of reads and writes.
func (k *socket) SetDeadline(t time.Time) error {
	if err := k.SetReadDeadline(t); err != nil {
		return err
	}
	return k.SetWriteDeadline(t)
}

// CloseWrite closes the sending side, if the connection has one.
func (k *socket) CloseWrite() error { return closeWrite(k.Conn) }

func closeWrite(c net.Conn) error {
	if w, ok := c.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return errors.ErrUnsupported
}

// NetConn returns the connection that k counts.
func (k *socket) NetConn() net.Conn { return k.Conn }

// proxiedConn is a connection from a trusted proxy. It may begin with a header of the
// PROXY protocol, which then names the client.
type proxiedConn struct {
	// immutable
	*socket
	timeout time.Duration

	once   sync.Once
	client net.Addr      // nil unless the header names it; set by once
	err    error         // set by once
	rest   *bufio.Reader // has bytes that were read after the header; set by once, then owned by the reader
}

func newProxiedConn(k *socket, timeout time.Duration) *proxiedConn {
	return &proxiedConn{socket: k, timeout: timeout}
}

// proxyBuffer is how many bytes of a header are read at once. It holds the longest header of
// version 1.
const proxyBuffer = 256

// errProxyHeader reports that a header of the PROXY protocol cannot be read.
var errProxyHeader = errors.New("server: malformed PROXY protocol header")

// readHeader reads the header, if there is one. It may arrive in pieces.
func (c *proxiedConn) readHeader() {
	if c.timeout > 0 {
		c.socket.SetReadDeadline(time.Now().Add(c.timeout))
		defer c.socket.SetReadDeadline(time.Time{})
	}
	r := bufio.NewReaderSize(c.socket, proxyBuffer)
	c.rest = r
	found, err := awaitProxyHeader(r)
	switch {
	case errors.Is(err, errProxyHeader):
		c.err = err
		return
	case err != nil: // the next read returns the error again
		return
	case found:
		h, err := proxyproto.Read(r)
		if err != nil {
			c.err = errProxyHeader
			return
		}
		if !h.Command.IsLocal() && h.SourceAddr != nil {
			c.client = h.SourceAddr
		}
	}
	if c.client == nil {
		return // the proxy's own connection, which carries many clients
	}
	if a := addrOf(c.client); !contains(c.sockets.o.TrustedProxies, a) && !c.sockets.count(c.socket, a) {
		c.err = io.EOF // at which net/http closes the connection
	}
}

// awaitProxyHeader waits until r has buffered the whole header of version 1 or the signature
// of version 2. It returns false once it is clear that there is no header.
func awaitProxyHeader(r *bufio.Reader) (found bool, err error) {
	for {
		if _, err := r.Peek(r.Buffered() + 1); err != nil {
			return false, err
		}
		b, _ := r.Peek(r.Buffered())
		switch {
		case startsWith(b, proxyproto.SIGV2):
			if len(b) >= len(proxyproto.SIGV2) {
				return true, nil // proxyproto waits for the rest
			}
		case !startsWith(b, proxyproto.SIGV1):
			return false, nil
		case bytes.IndexByte(b, '\n') >= 0:
			return true, nil
		case len(b) >= maxProxyLine:
			return false, errProxyHeader
		}
	}
}

// maxProxyLine is the length of the longest header of version 1 (PROXY protocol,
// section 2.1).
const maxProxyLine = 107

// startsWith reports whether b begins with prefix or, if b is shorter, may still do so.
func startsWith(b, prefix []byte) bool {
	n := min(len(b), len(prefix))
	return bytes.Equal(b[:n], prefix[:n])
}

// Read reads the bytes after the header.
func (c *proxiedConn) Read(b []byte) (int, error) {
	if c.once.Do(c.readHeader); c.err != nil {
		return 0, c.err
	}
	if c.rest != nil {
		if c.rest.Buffered() > 0 {
			return c.rest.Read(b)
		}
		c.rest = nil
	}
	return c.socket.Read(b)
}

// RemoteAddr returns the address of the client, once the header has arrived.
func (c *proxiedConn) RemoteAddr() net.Addr {
	if c.once.Do(c.readHeader); c.client != nil {
		return c.client
	}
	return c.socket.RemoteAddr()
}

// Raw returns the TCP connection.
func (c *proxiedConn) Raw() net.Conn { return c.socket.Conn }

// httpConn is a connection as net/http sees it. It refuses a request whose head has more
// than maxFields fields before net/http keeps them. TLS is below it, so that this holds
// with and without TLS.
type httpConn struct {
	net.Conn         // immutable: a socket, a proxiedConn, or a tls.Conn on one of them
	socket   *socket // immutable
	tls      *tls.Conn

	nextHead atomic.Bool // a request has been answered: the head of another may follow

	// owned by the reader
	head    headScanner
	matched int  // how many bytes of the preface have matched; -1 after a mismatch
	http2   bool // does not change once a request has arrived
}

// preface is the beginning of an HTTP/2 connection (RFC 9113 section 3.4).
const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// Read reads bytes of requests.
func (c *httpConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err != nil && c.tls != nil && c.matched == 0 {
		c.handshakeFailed(err)
	}
	if n == 0 || c.http2 {
		return n, err
	}
	c.recognize(b[:n])
	if c.nextHead.CompareAndSwap(true, false) {
		c.head = headScanner{}
	}
	if !c.head.scan(b[:n]) {
		c.answerTooManyFields()
		return 0, io.EOF
	}
	return n, err
}

// recognize determines from the first bytes whether the connection speaks HTTP/2. HTTP/2
// has no lines: net/http bounds the size of its fields, and the handler counts them.
func (c *httpConn) recognize(b []byte) {
	if c.matched < 0 {
		return
	}
	n := min(len(b), len(preface)-c.matched)
	if c.tls == nil || string(b[:n]) != preface[c.matched:c.matched+n] {
		c.matched = -1
		return
	}
	c.matched += n
	c.http2 = c.matched == len(preface)
}

// handshakeFailed reports an error of the TLS handshake, once, and answers a client that
// speaks HTTP instead.
func (c *httpConn) handshakeFailed(err error) {
	c.matched = -1
	if c.tls.ConnectionState().HandshakeComplete {
		return
	}
	c.socket.sockets.o.Events.HandshakeFailed(c.RemoteAddr(), err)
	var bad tls.RecordHeaderError
	if !errors.As(err, &bad) || bad.Conn == nil {
		return
	}
	switch string(bad.RecordHeader[:]) {
	case "GET /", "HEAD ", "POST ", "PUT /", "OPTIO", "DELET":
		io.WriteString(bad.Conn, "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n")
	}
}

// CloseNow closes the TCP connection at once, without a closing alert of TLS.
func (c *httpConn) CloseNow() error { return c.socket.Close() }

// CloseWrite closes the sending side.
func (c *httpConn) CloseWrite() error { return closeWrite(c.Conn) }

// NetConn returns the connection below: the TCP connection itself, except with TLS and
// for a connection from a proxy.
func (c *httpConn) NetConn() net.Conn {
	if c.Conn == net.Conn(c.socket) {
		return c.socket.Conn
	}
	return c.Conn
}
