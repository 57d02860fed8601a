package server

import (
	"errors"
	"io"
	"net/http"
	"time"
)

// bodyTimeout is how long the body of a request may take to arrive.
const bodyTimeout = 30 * time.Second

// answerDelay is how long a client that is still sending has to read its answer
// before the connection is closed.
const answerDelay = 500 * time.Millisecond

var errTooLarge = errors.New("request body too large")

// closing is the Connection header of a response after whose end nothing more
// is read.
const closing = "close"

// boundBody bounds what the body of r may cost, whether it is used or not: the
// time that it takes to arrive, and its length. A body that is longer than a
// message, or does not say how long it is, costs its connection. leaveBody is to be
// called when the response has been made.
//
// A chunked body costs its connection also where its end is found, and so does every
// request of HTTP/1.0. A client may have sent a Content-Length beside
// Transfer-Encoding, or Transfer-Encoding with HTTP/1.0, for a proxy and the broker to
// disagree on where the next request begins. net/http does not say so, and the
// connection must be closed then (RFC 9112 sections 6.1 and 6.3).
func (s *Server) boundBody(w http.ResponseWriter, r *http.Request) {
	n := r.ContentLength
	if r.ProtoMajor == 1 && (r.ProtoMinor == 0 || n < 0 || n > int64(s.o.MaxMessageSize)) {
		w.Header().Set("Connection", closing)
	}
	if n != 0 {
		setReadDeadline(w, time.Now().Add(bodyTimeout))
	}
}

// leaveBody leaves what readBody has not read of a body.
func leaveBody(w http.ResponseWriter, r *http.Request) {
	if r.ContentLength == 0 || r.ProtoMajor != 1 || w.Header().Get("Connection") != closing {
		return
	}
	setReadDeadline(w, time.Now()) // or net/http would read on, to 256 KiB
	// To close while the client is sending resets the connection, which can
	// destroy the answer before it is read (RFC 9112 section 9.6).
	_ = http.NewResponseController(w).Flush()
	time.Sleep(answerDelay)
}

// readBody returns the body of r, which boundBody has bounded, and leaves r without
// one. The error is errTooLarge if it is longer than a message.
func (s *Server) readBody(w http.ResponseWriter, r *http.Request) (body []byte, err error) {
	limit := int64(s.o.MaxMessageSize)
	switch n := r.ContentLength; {
	case n == 0:
		return nil, nil
	case n > limit:
		return nil, errTooLarge
	case n > 0:
		body, err = readExactly(r.Body, int(n))
	default:
		body, err = io.ReadAll(io.LimitReader(r.Body, limit+1))
		if int64(len(body)) > limit {
			return nil, errTooLarge
		}
	}
	if err != nil {
		return nil, err
	}
	// The whole body is here: the next read is that of the next request.
	r.ContentLength = 0
	setReadDeadline(w, time.Time{})
	if rec, ok := w.(*recorder); ok {
		rec.bodyEnded()
	}
	return body, nil
}

// firstRead is how much memory a body gets before any of it has come.
const firstRead = 4 << 10

// readExactly reads n bytes. Its memory grows with what has come, so that a client
// that only announces a body takes none.
func readExactly(r io.Reader, n int) ([]byte, error) {
	b := make([]byte, min(n, firstRead))
	for read := 0; ; {
		k, err := io.ReadFull(r, b[read:])
		read += k
		if err != nil || read == n {
			return b, err
		}
		larger := make([]byte, min(2*read, n))
		copy(larger, b)
		b = larger
	}
}

// setReadDeadline has no error: a connection that has no deadlines is a test's.
func setReadDeadline(w http.ResponseWriter, t time.Time) {
	_ = http.NewResponseController(w).SetReadDeadline(t)
}
