package server

import (
	"net/http"
	"sync/atomic"
	"time"
)

// responseTransport is the response to a request over HTTP/2, whose connection carries
// many streams and cannot be hijacked. It implements [conn.Transport].
type responseTransport struct {
	w          http.ResponseWriter
	control    *http.ResponseController
	timeout    time.Duration // how long the client may take to take one frame
	endHandler func()        // makes the handler return

	finished atomic.Bool
}

// maxFrame is the payload of the largest frame that every HTTP/2 client accepts, in bytes
// (RFC 9113 section 4.2).
const maxFrame = 16 << 10

// Write sends b at once. The timeout applies to each frame, so that a client may take a
// long message slowly.
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
		// Otherwise the response would be reset at the deadline, with nothing left to write.
		err = t.control.SetWriteDeadline(time.Time{})
	}
	return n, err
}

// Unread returns false, because the client sends nothing after its request.
func (t *responseTransport) Unread() bool { return false }

// Finish completes the response.
func (t *responseTransport) Finish() {
	t.finished.Store(true)
	t.endHandler()
}

// Close ends the response and any Write under way, by a reset unless it is complete.
func (t *responseTransport) Close() error {
	t.endHandler()
	if t.finished.Load() {
		return nil
	}
	return t.control.SetWriteDeadline(time.Now())
}
