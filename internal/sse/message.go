// Package sse encodes messages as server-sent events (WHATWG HTML Standard, section 9.2)
// and parses a Last-Event-ID. It uses no connection and no clock.
//
// Content is escaped, split into lines or encoded, so that it cannot forge a field or an
// event.
package sse

import (
	"bytes"
	"encoding/base64"
	"slices"
	"unicode/utf8"

	"pubsub"
)

const (
	messageLine = "event: message\n"
	base64Line  = "event: message-base64\n"
)

// AppendMessage appends m as an event without id. The event is `message`, with a data line
// for each line of the content, or `message-base64` if the content is not valid UTF-8. CR
// LF, CR and LF each end a line; an EventSource returns all of them as LF.
func AppendMessage(dst []byte, m *pubsub.Message) []byte {
	return appendMessage(dst, m, false)
}

// AppendMessageWithID appends m like [AppendMessage], with an id that has only the version
// of m. A message without a version has no id.
func AppendMessageWithID(dst []byte, m *pubsub.Message) []byte {
	return appendMessage(dst, m, true)
}

// AppendEnvelope appends m as an event `message` without id. The data is one line of JSON
// with the keys topic, data (or base64 if the content is not valid UTF-8) and, if m has a
// version, version. It preserves the content exactly.
func AppendEnvelope(dst []byte, m *pubsub.Message) []byte {
	return appendEnvelope(dst, m, false)
}

// AppendEnvelopeWithID appends m like [AppendEnvelope], with the id of
// [AppendMessageWithID].
func AppendEnvelopeWithID(dst []byte, m *pubsub.Message) []byte {
	return appendEnvelope(dst, m, true)
}

// Split splits an event without id after its event line. A stream with several topics sends
// line, then its own id made by [AppendID], then rest, which all subscribers share. Both
// results are slices of event.
func Split(event []byte) (line, rest []byte) {
	n := bytes.IndexByte(event, '\n') + 1
	return event[:n:n], event[n:]
}

func appendMessage(dst []byte, m *pubsub.Message, hasID bool) []byte {
	dst = grow(dst, m)
	if !utf8.Valid(m.Data) {
		dst = append(dst, base64Line...)
		dst = appendOwnID(dst, m, hasID)
		dst = append(dst, "data: "...)
		dst = base64.StdEncoding.AppendEncode(dst, m.Data)
		return append(dst, "\n\n"...)
	}
	dst = append(dst, messageLine...)
	dst = appendOwnID(dst, m, hasID)
	dst = appendDataLines(dst, m.Data)
	return append(dst, '\n')
}

// appendDataLines appends a data field for each line of text, an empty last line included.
// The space after the colon is not part of the value, so a line that begins with a space
// keeps it.
func appendDataLines(dst, text []byte) []byte {
	for {
		dst = append(dst, "data: "...)
		i := bytes.IndexAny(text, "\r\n")
		if i < 0 {
			dst = append(dst, text...)
			return append(dst, '\n')
		}
		dst = append(dst, text[:i]...)
		dst = append(dst, '\n')
		if text[i] == '\r' && i+1 < len(text) && text[i+1] == '\n' {
			i++
		}
		text = text[i+1:]
	}
}

func appendEnvelope(dst []byte, m *pubsub.Message, hasID bool) []byte {
	dst = grow(dst, m)
	dst = append(dst, messageLine...)
	dst = appendOwnID(dst, m, hasID)
	dst = append(dst, `data: {"topic":`...)
	dst = appendQuoted(dst, m.Topic)
	if utf8.Valid(m.Data) {
		dst = append(dst, `,"data":`...)
		dst = appendQuoted(dst, m.Data)
	} else {
		dst = append(dst, `,"base64":"`...)
		dst = base64.StdEncoding.AppendEncode(dst, m.Data)
		dst = append(dst, '"')
	}
	if !m.Version.IsZero() {
		dst = append(dst, `,"version":"`...)
		dst = m.Version.AppendTo(dst)
		dst = append(dst, '"')
	}
	return append(dst, "}\n\n"...)
}

// appendOwnID appends the id of a stream with only the topic of m, if hasID is set.
func appendOwnID(dst []byte, m *pubsub.Message, hasID bool) []byte {
	if !hasID {
		return dst
	}
	p := [1]Position{{Topic: m.Topic, Version: m.Version}}
	return AppendID(dst, p[:])
}

// grow grows dst so that encoding most messages needs only one allocation.
func grow(dst []byte, m *pubsub.Message) []byte {
	const framing = 96 // field names, line ends, a version, a chunk's size line
	return slices.Grow(dst, framing+len(m.Topic)+len(m.Data))
}
