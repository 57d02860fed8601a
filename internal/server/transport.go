package server

import (
	"errors"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// transport carries a stream's bytes to its client. Only one goroutine writes at
// a time; Close may be called by any, and fails a Write under way.
type transport interface {
	Write(b []byte) (int, error)
	// Finish says that nothing more will be written. Whoever waits for the client
	// then sees it go, or is told so after a moment.
	Finish()
	Close() error
}

// LingerTimeout is how long a client may take to close its side after the server
// has ended a stream. To close both at once could destroy what is under way to
// it (RFC 9112 section 9.6).
const LingerTimeout = 2 * time.Second

// netTransport is a connection taken over from net/http.
type netTransport struct{ net.Conn }

// Finish closes the sending side.
func (t netTransport) Finish() {
	if c, ok := t.Conn.(interface{ CloseWrite() error }); ok && c.CloseWrite() == nil {
		t.SetReadDeadline(time.Now().Add(LingerTimeout))
		return
	}
	t.Close()
}

// responseTransport is the response to a request over HTTP/2, where a connection
// carries many streams and cannot be taken over.
type responseTransport struct {
	w       http.ResponseWriter
	control *http.ResponseController
	timeout time.Duration // in which a piece must be taken
	end     func()        // makes the handler return

	finished atomic.Bool
}

// maxFrame is the payload of the largest frame that every HTTP/2 client takes (RFC
// 9113 section 4.2).
const maxFrame = 16 << 10

// Write sends b at once. The timeout is that of each frame: a client that takes a
// long message slowly is not one that takes nothing.
func (t *responseTransport) Write(b []byte) (n int, err error) {
	for n < len(b) && err == nil {
		if err := t.control.SetWriteDeadline(time.Now().Add(t.timeout)); err != nil {
			return n, err
		}
		var m int
		m, err = t.w.Write(b[n:min(n+maxFrame, len(b))])
		n += m
	}
	if err == nil {
		err = t.control.Flush()
	}
	if err == nil {
		// Or the response would be reset then, though there is nothing to write.
		err = t.control.SetWriteDeadline(time.Time{})
	}
	return n, err
}

// Finish ends the response: it is whole.
func (t *responseTransport) Finish() {
	t.finished.Store(true)
	t.end()
}

// Close ends the response and any Write under way, by a reset unless it is whole.
func (t *responseTransport) Close() error {
	t.end()
	if t.finished.Load() {
		return nil
	}
	return t.control.SetWriteDeadline(time.Now())
}

// WriteTimeoutListener returns ln with connections on which a Write fails once
// the peer has taken no byte for timeout, as long as Write itself may take. TLS
// goes on top of it.
func WriteTimeoutListener(ln net.Listener, timeout time.Duration) net.Listener {
	return &writeTimeoutListener{ln, timeout}
}

type writeTimeoutListener struct {
	net.Listener
	timeout time.Duration
}

func (l *writeTimeoutListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &writeTimeoutConn{Conn: c, timeout: l.timeout}, nil
}

type writeTimeoutConn struct {
	net.Conn
	timeout time.Duration // immutable
	limit   writeLimit    // owned by the writer
}

// Write writes all of b unless the peer stops taking bytes.
func (c *writeTimeoutConn) Write(b []byte) (n int, err error) {
	return c.limit.write(c.Conn, c.timeout, b)
}

// SetWriteDeadline sets the deadline of the writes to come. It can only shorten
// what the timeout allows.
func (c *writeTimeoutConn) SetWriteDeadline(t time.Time) error {
	if t.IsZero() {
		return nil
	}
	return c.Conn.SetWriteDeadline(t)
}

// SetDeadline sets the deadline of reads, and that of writes.
func (c *writeTimeoutConn) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}

// NetConn returns the connection that c writes to.
func (c *writeTimeoutConn) NetConn() net.Conn { return c.Conn }

// CloseWrite closes the sending side, if the connection has such a thing.
func (c *writeTimeoutConn) CloseWrite() error {
	inner := c.Conn
	if p, ok := inner.(interface{ Raw() net.Conn }); ok { // of the PROXY protocol
		inner = p.Raw()
	}
	if w, ok := inner.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return errors.ErrUnsupported
}
