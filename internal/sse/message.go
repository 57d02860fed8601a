// Package sse turns messages into the bytes of server-sent events (WHATWG HTML
// Standard, section 9.2) and a Last-Event-ID back into versions. It is pure: it
// knows no connection and no clock.
//
// What ends up on a line is escaped, split or encoded, so that no content can
// forge a field or an event.
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

// AppendMessage appends m as an event without id: `message` with one data line
// for each line of the content, or `message-base64` for content that is not
// valid UTF-8. CR LF, CR and LF each end a line, and an EventSource gives all of
// them back as LF.
func AppendMessage(dst []byte, m *pubsub.Message) []byte {
	return appendMessage(dst, m, false)
}

// AppendMessageWithID appends m like [AppendMessage], with an id that names m's version
// alone. A message without a version has no id.
func AppendMessageWithID(dst []byte, m *pubsub.Message) []byte {
	return appendMessage(dst, m, true)
}

// AppendEnvelope appends m as an event `message` without id whose data is one
// line of JSON: the keys topic, then data (or base64 for content that is not
// valid UTF-8), then version if m has one. The content in it is exact.
func AppendEnvelope(dst []byte, m *pubsub.Message) []byte {
	return appendEnvelope(dst, m, false)
}

// AppendEnvelopeWithID appends m like [AppendEnvelope], with the id of
// [AppendMessageWithID].
func AppendEnvelopeWithID(dst []byte, m *pubsub.Message) []byte {
	return appendEnvelope(dst, m, true)
}

// Split cuts an event that has no id after its event line. A stream over several
// topics sends line, an id of its own made by [AppendID], then rest, which all
// subscribers share. Both results are parts of event.
func Split(event []byte) (line, rest []byte) {
	n := bytes.IndexByte(event, '\n') + 1
	return event[:n:n], event[n:]
}

func appendMessage(dst []byte, m *pubsub.Message, id bool) []byte {
	dst = grow(dst, m)
	if !utf8.Valid(m.Data) {
		dst = append(dst, base64Line...)
		dst = appendOwnID(dst, m, id)
		dst = append(dst, "data: "...)
		dst = base64.StdEncoding.AppendEncode(dst, m.Data)
		return append(dst, "\n\n"...)
	}
	dst = append(dst, messageLine...)
	dst = appendOwnID(dst, m, id)
	dst = appendDataLines(dst, m.Data)
	return append(dst, '\n')
}

// appendDataLines appends one data field for each line of text, an empty text
// and an empty last line included. The space after the colon is not part of the
// value, so it protects a space that the line itself begins with.
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

func appendEnvelope(dst []byte, m *pubsub.Message, id bool) []byte {
	dst = grow(dst, m)
	dst = append(dst, messageLine...)
	dst = appendOwnID(dst, m, id)
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

// appendOwnID appends the id line of a stream over m's topic alone, if wanted.
func appendOwnID(dst []byte, m *pubsub.Message, want bool) []byte {
	if !want {
		return dst
	}
	p := [1]Position{{Topic: m.Topic, Version: m.Version}}
	return AppendID(dst, p[:])
}

// grow makes room for what most messages need, so that a frame is allocated once.
func grow(dst []byte, m *pubsub.Message) []byte {
	const framing = 96 // field names, line ends, a version, a chunk's size line
	return slices.Grow(dst, framing+len(m.Topic)+len(m.Data))
}
