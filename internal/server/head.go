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
	lines    int  // non-empty lines; the first is not a field
	nonempty bool // the current line is not empty
	cr       bool // the current line has begun with CR
	ended    bool
}

// scan scans the next bytes of a connection, and reports whether the number of fields is
// allowed so far. It ignores bytes after the head.
func (h *headScanner) scan(b []byte) bool {
	for !h.ended && len(b) > 0 {
		i := bytes.IndexByte(b, '\n')
		line := b
		if i >= 0 {
			line = b[:i]
		}
		switch {
		case h.nonempty || len(line) == 0:
		case len(line) == 1 && line[0] == '\r' && !h.cr:
			h.cr = true
		default:
			h.nonempty = true
		}
		if i < 0 {
			return true
		}
		b = b[i+1:]
		switch {
		case h.nonempty:
			if h.lines++; h.lines > 1+maxFields {
				return false
			}
		case h.lines > 0: // empty lines before the first one are skipped
			h.ended = true
		}
		h.nonempty, h.cr = false, false
	}
	return true
}

// tooManyFields reports whether r has more header fields than a request may have. Over
// HTTP/1.1 the connection has already counted them, except for pipelined requests.
func tooManyFields(r *http.Request) bool {
	n := 0
	for _, values := range r.Header {
		n += len(values)
	}
	return n > maxFields
}

// answerTooManyFields answers a request whose head has too many fields. It reads the client's
// remaining bytes for a moment, because a connection that is closed earlier is reset, which
// can destroy the answer (RFC 9112 section 9.6).
func (c *httpConn) answerTooManyFields() {
	const text = "431 Request Header Fields Too Large"
	io.WriteString(c.Conn, "HTTP/1.1 "+text+"\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n"+text)
	if c.CloseWrite() != nil {
		return
	}
	c.Conn.SetReadDeadline(time.Now().Add(answerDelay))
	io.CopyN(io.Discard, c.Conn, maxRefused)
}

// maxRefused is how many more bytes are read from a refused client.
const maxRefused = 128 << 10
