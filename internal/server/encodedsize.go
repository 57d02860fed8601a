package server

import (
	"bytes"

	"pubsub"
)

// maxPiece is how many encoded bytes a client gets at once, beside one message. It must take
// them before it gets more.
const maxPiece = 16 << 10

// jsonExtra is how many bytes a byte of content adds to an envelope beyond itself, if it is
// the first of a character that must be escaped.
var jsonExtra = func() (extra [256]uint8) {
	for c := range 0x20 {
		extra[c] = 5 // \u001f
	}
	extra['"'], extra['\\'] = 1, 1
	extra[0xc2] = 4 // U+0085 takes two, and \u0085 six
	extra[0xe2] = 3 // U+2028 and U+2029 take three
	return extra
}()

// MaxEncodedSize returns an upper bound of the length of m in any shared encoding, in bytes.
func MaxEncodedSize(m *pubsub.Message) int {
	// fixed covers the names of fields, a version and a time. The topic is in an id, where
	// each byte may take three, and in an envelope, where it may take two.
	const fixed, perTopicByte = 208, 5
	n := fixed + perTopicByte*len(m.Topic) + len(m.Data) + len(m.Properties)
	if len(m.Data) >= maxPiece {
		return n + 6*len(m.Data) // the message is a piece by itself, however long
	}
	json := 0
	for _, c := range m.Data {
		json += int(jsonExtra[c])
	}
	lines := bytes.Count(m.Data, []byte{'\n'}) + bytes.Count(m.Data, []byte{'\r'})
	const dataField = len("data: ")
	return n + max(json, lines*dataField, len(m.Data)/3+4) // the last is Base64
}
