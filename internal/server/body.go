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

// closing is the Connection header of a response after which nothing more is read.
const closing = "close"

// boundBody bounds the cost of the body of r, used or not: the time that it takes to arrive,
// and its length. The connection is closed after a body that is longer than a message or
// whose length is not known. leaveBody must be called after the response.
//
// The connection is closed after every chunked body, and after every request of HTTP/1.0. A
// client may have sent a Content-Length beside Transfer-Encoding, or Transfer-Encoding with
// HTTP/1.0, to make a proxy and the broker disagree on where the next request begins. The
// connection must be closed then (RFC 9112 sections 6.1 and 6.3), but net/http does not
// report it.
func (s *Server) boundBody(w http.ResponseWriter, r *http.Request) {
	n := r.ContentLength
	if r.ProtoMajor == 1 && (r.ProtoMinor == 0 || n < 0 || n > int64(s.o.MaxMessageSize)) {
		w.Header().Set("Connection", closing)
	}
	if n != 0 {
		setReadDeadline(w, time.Now().Add(bodyTimeout))
	}
}

// leaveBody leaves the rest of a body that readBody has not read.
func leaveBody(w http.ResponseWriter, r *http.Request) {
	if r.ContentLength == 0 || r.ProtoMajor != 1 || w.Header().Get("Connection") != closing {
		return
	}
	setReadDeadline(w, time.Now()) // otherwise net/http would read on, to 256 KiB
	// Closing while the client is sending resets the connection, which can destroy
	// the answer before the client reads it (RFC 9112 section 9.6).
	_ = http.NewResponseController(w).Flush()
	time.Sleep(answerDelay)
}

// readBody returns the body of r, which boundBody has bounded, and leaves r without a body.
// The error may be errTooLarge, if the body is longer than a message, or errBusy. freeBody
// must be called once the body is no longer needed.
func (s *Server) readBody(w http.ResponseWriter, r *http.Request) (body []byte, err error) {
	limit := int64(s.o.MaxMessageSize)
	switch n := r.ContentLength; {
	case n == 0:
		return nil, nil
	case n > limit:
		return nil, errTooLarge
	case n > 0:
		if body, err = s.readAtMost(r.Body, int(n)); err == nil && int64(len(body)) < n {
			s.freeBody(body)
			err = io.ErrUnexpectedEOF
		}
	default:
		body, err = s.readAtMost(r.Body, int(limit)+1)
		if err == nil && int64(len(body)) > limit {
			s.freeBody(body)
			err = errTooLarge
		}
	}
	if err != nil {
		return nil, err
	}
	// The body is complete: the next read is for the next request.
	r.ContentLength = 0
	setReadDeadline(w, time.Time{})
	if rec, ok := w.(*recorder); ok {
		rec.bodyEnded()
	}
	return body, nil
}

const (
	// firstRead is how much memory a body gets before any of it has arrived.
	firstRead = 4 << 10
	// maxBodies is how much memory all bodies may take together.
	maxBodies = 64 << 20
)

var errBusy = errors.New("too many request bodies at once")

// readAtMost reads n bytes of r, or all of it if that is less. Its memory grows with the
// bytes that have arrived, so a client that only announces a body takes none.
func (s *Server) readAtMost(r io.Reader, n int) ([]byte, error) {
	var b []byte
	for read := 0; read < n; {
		if read == len(b) {
			larger := make([]byte, min(max(firstRead, 2*read), n))
			if s.bodies.Add(int64(len(larger)-len(b))) > maxBodies {
				s.bodies.Add(-int64(len(larger)))
				return nil, errBusy
			}
			copy(larger, b)
			b = larger
		}
		k, err := r.Read(b[read:])
		read += k
		switch {
		case err == io.EOF:
			return b[:read], nil
		case err != nil:
			s.freeBody(b)
			return nil, err
		}
	}
	return b, nil
}

// freeBody releases the memory that was counted for body, which readBody has returned.
func (s *Server) freeBody(body []byte) { s.bodies.Add(-int64(cap(body))) }

// setReadDeadline ignores errors: only tests have connections without deadlines.
func setReadDeadline(w http.ResponseWriter, t time.Time) {
	_ = http.NewResponseController(w).SetReadDeadline(t)
}
