package server

import (
	"bytes"
	"io"
	"net/http"
	"time"
)

// maxFields is how many header fields a request may have.
const maxFields = 100

// headScanner counts the lines of a request's head over HTTP/1.1.
type headScanner struct {
	lines int  // that are not empty; the first is no field
	some  bool // the line under way is not empty
	cr    bool // it has begun with CR
	ended bool
}

// scan takes the next bytes of a connection, and reports false if they hold more
// fields than a request may have. What follows the head in b is not looked at.
func (h *headScanner) scan(b []byte) bool {
	for !h.ended && len(b) > 0 {
		i := bytes.IndexByte(b, '\n')
		line := b
		if i >= 0 {
			line = b[:i]
		}
		switch {
		case h.some || len(line) == 0:
		case len(line) == 1 && line[0] == '\r' && !h.cr:
			h.cr = true
		default:
			h.some = true
		}
		if i < 0 {
			return true
		}
		b = b[i+1:]
		switch {
		case h.some:
			if h.lines++; h.lines > 1+maxFields {
				return false
			}
		case h.lines > 0: // before the first line an empty one is passed over
			h.ended = true
		}
		h.some, h.cr = false, false
	}
	return true
}

// tooManyFields reports whether r has more header fields than a request may have.
// Over HTTP/1.1 that was seen before, but for requests that were sent without waiting
// for the answer to the one before.
func tooManyFields(r *http.Request) bool {
	n := 0
	for _, values := range r.Header {
		n += len(values)
	}
	return n > maxFields
}

// refuse answers a request whose head has too many fields. What is still under way
// is read for a moment: a connection that is closed before that is reset, which can
// destroy the answer (RFC 9112 section 9.6).
func (c *httpConn) refuse() {
	const text = "431 Request Header Fields Too Large"
	io.WriteString(c.Conn, "HTTP/1.1 "+text+"\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n"+text)
	if c.CloseWrite() != nil {
		return
	}
	c.Conn.SetReadDeadline(time.Now().Add(answerDelay))
	io.CopyN(io.Discard, c.Conn, maxRefused)
}

// maxRefused is how many bytes more are read from a client that was refused.
const maxRefused = 128 << 10
