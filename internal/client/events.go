package client

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"
)

// maxEventBytes bounds a line of an event stream, and the data of an event. JSON can
// enlarge a message to six times its size.
const maxEventBytes = 6*MaxMessageBytes + 1<<20

var errEventTooLong = fmt.Errorf("the server sent an event larger than %d MiB", maxEventBytes>>20)

// event is one event of a stream.
type event struct {
	name  string // empty stands for "message"
	data  []byte
	id    string // valid if hasID
	hasID bool   // the event itself has an id
}

// eventReader parses an event stream (WHATWG HTML section 9.2.6).
type eventReader struct {
	r     *bufio.Reader
	limit int

	retry time.Duration // the value of the last retry field, or 0

	begun  bool // the first line has been read
	skipLF bool // the last line ended in CR, so a LF that follows belongs to it
}

func newEventReader(r io.Reader, limit int) *eventReader {
	return &eventReader{r: bufio.NewReaderSize(r, 16<<10), limit: limit}
}

// next returns the next event that has data. It discards an incomplete event at the end of
// the stream. The error is that of the stream, or [io.EOF] at its end.
func (p *eventReader) next() (event, error) {
	var e event
	hasData := false
	for {
		line, err := p.line()
		if err != nil {
			return event{}, err
		}
		if len(line) == 0 {
			if !hasData {
				e = event{}
				continue
			}
			e.data = e.data[:len(e.data)-1] // the last LF
			return e, nil
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch string(name) {
		case "event":
			e.name = string(value)
		case "data":
			if len(e.data)+len(value) > p.limit {
				return event{}, errEventTooLong
			}
			e.data = append(append(e.data, value...), '\n')
			hasData = true
		case "id":
			if bytes.IndexByte(value, 0) < 0 {
				e.id, e.hasID = string(value), true
			}
		case "retry":
			p.setRetry(string(value))
		}
	}
}

// setRetry sets the retry time from the value of a retry field: milliseconds, digits only.
func (p *eventReader) setRetry(s string) {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return
		}
	}
	if n, err := strconv.ParseInt(s, 10, 32); err == nil {
		p.retry = time.Duration(n) * time.Millisecond
	}
}

// line returns the next line without its end, which is CR LF, LF or CR. The slice is valid
// until the next call.
func (p *eventReader) line() ([]byte, error) {
	var long []byte // the line so far, if it is longer than the buffer
	for {
		if _, err := p.r.Peek(1); err != nil {
			return nil, err
		}
		b, _ := p.r.Peek(p.r.Buffered())
		if p.skipLF {
			p.skipLF = false
			if b[0] == '\n' {
				p.discard(1)
				continue
			}
		}
		end := bytes.IndexAny(b, "\r\n")
		if end < 0 {
			if len(long)+len(b) > p.limit {
				return nil, errEventTooLong
			}
			long = append(long, b...)
			p.discard(len(b))
			continue
		}
		p.skipLF = b[end] == '\r'
		line := b[:end]
		if long != nil {
			line = append(long, line...)
		}
		p.discard(end + 1)
		if !p.begun {
			p.begun = true
			line = bytes.TrimPrefix(line, []byte("\ufeff"))
		}
		return line, nil
	}
}

// discard skips n buffered bytes.
func (p *eventReader) discard(n int) {
	if _, err := p.r.Discard(n); err != nil {
		panic(errors.Join(errors.New("client: discarding buffered bytes failed"), err))
	}
}
