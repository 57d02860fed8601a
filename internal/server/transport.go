package server

import (
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"pubsub/internal/park"
)

// transport carries a stream's bytes to its client. Only one goroutine writes at
// a time; Close may be called by any, and fails a Write under way.
type transport interface {
	Write(b []byte) (int, error)
	// Finish says that nothing more will be written. Whoever waits for the client
	// then sees it go.
	Finish()
	// Unread reports whether the client has sent bytes that nobody has read. It is false
	// if that cannot be known.
	Unread() bool
	Close() error
}

// netTransport is a connection taken over from net/http.
type netTransport struct{ net.Conn }

// Finish closes the sending side. Closing both sides at once could destroy bytes in
// flight to the client (RFC 9112 section 9.6).
func (t netTransport) Finish() {
	if c, ok := t.Conn.(interface{ CloseWrite() error }); !ok || c.CloseWrite() != nil {
		t.Close()
	}
}

// Unread implements [transport].
func (t netTransport) Unread() bool { return park.Unread(t.Conn) }

// Close closes the connection at once. With TLS it closes the connection below, because
// TLS would first wait until the client has taken its closing alert.
func (t netTransport) Close() error {
	if c, ok := t.Conn.(*httpConn); ok {
		return c.socket.Close()
	}
	return t.Conn.Close()
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

// Unread implements [transport]. The client sends nothing after its request.
func (t *responseTransport) Unread() bool { return false }

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
