package sse_test

import (
	"bytes"
	"strconv"
	"strings"
	"unicode/utf8"
)

// event is an event that an EventSource dispatches.
type event struct {
	kind, data, lastID string
}

// eventSource parses an event stream by the algorithm of the WHATWG HTML Standard, sections
// 9.2.5 and 9.2.6. The stream may arrive in pieces. It shares no code with package sse.
type eventSource struct {
	events []event
	retry  int // in milliseconds; -1 before the first retry field

	raw     []byte // the incomplete last line
	begun   bool   // a byte order mark is not possible any more
	afterCR bool   // a line feed would be part of the previous line end
	data    []byte
	kind    string
	idBuf   string
	lastID  string
}

func newEventSource() *eventSource { return &eventSource{retry: -1} }

// feed parses the next bytes of the stream.
func (s *eventSource) feed(b []byte) {
	for _, c := range b {
		switch {
		case c == '\n' && s.afterCR:
			s.afterCR = false
		case c == '\n' || c == '\r':
			s.afterCR = c == '\r'
			s.line()
		default:
			s.afterCR = false
			s.raw = append(s.raw, c)
		}
	}
}

func (s *eventSource) line() {
	line := s.raw
	s.raw = nil
	if !s.begun {
		s.begun = true
		line = bytes.TrimPrefix(line, []byte("\xef\xbb\xbf"))
	}
	// The decoder replaces invalid UTF-8 by U+FFFD. A line end is never part of an
	// invalid sequence.
	text := string(line)
	if !utf8.Valid(line) {
		text = strings.ToValidUTF8(text, "\uFFFD")
	}
	if text == "" {
		s.dispatch()
		return
	}
	name, value, ok := strings.Cut(text, ":")
	if ok && name == "" {
		return // a comment
	}
	value = strings.TrimPrefix(value, " ")
	switch name {
	case "event":
		s.kind = value
	case "data":
		s.data = append(append(s.data, value...), '\n')
	case "id":
		if !strings.Contains(value, "\x00") {
			s.idBuf = value
		}
	case "retry":
		if value != "" && strings.Trim(value, "0123456789") == "" {
			s.retry, _ = strconv.Atoi(value)
		}
	}
}

func (s *eventSource) dispatch() {
	s.lastID = s.idBuf
	if len(s.data) == 0 {
		s.kind = ""
		return
	}
	e := event{kind: s.kind, data: string(bytes.TrimSuffix(s.data, []byte("\n"))), lastID: s.lastID}
	if e.kind == "" {
		e.kind = "message"
	}
	s.events = append(s.events, e)
	s.data, s.kind = nil, ""
}

// readAll returns the events of a whole stream, and the bytes that are not part of a
// complete event.
func readAll(b []byte) (events []event, rest string) {
	s := newEventSource()
	s.feed(b)
	rest = string(s.raw)
	if len(s.data) != 0 || s.kind != "" {
		rest += "(unfinished event)"
	}
	return s.events, rest
}
