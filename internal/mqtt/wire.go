package mqtt

import (
	"bytes"
	"encoding/binary"
	"unicode/utf8"
)

// maxVarint is the maximum value of a Variable Byte Integer (section 1.5.5).
const maxVarint = 1<<28 - 1

// reader reads the fields of one packet. It keeps the first error, after which every read
// returns the zero value.
type reader struct {
	b   []byte // the unread bytes
	err *Error // the first error
}

func (r *reader) fail(reason ReasonCode, text string) {
	if r.err == nil {
		r.err = &Error{reason, text}
	}
	r.b = nil
}

// take returns the next n bytes, or fails and returns nil if there are fewer.
func (r *reader) take(n int) []byte {
	if n > len(r.b) {
		r.fail(MalformedPacket, "field longer than the packet")
		return nil
	}
	v := r.b[:n:n]
	r.b = r.b[n:]
	return v
}

func (r *reader) byte() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) uint16() uint16 {
	if b := r.take(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (r *reader) uint32() uint32 {
	if b := r.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (r *reader) varint() uint32 {
	v, n, err := varint(r.b)
	switch {
	case err != nil:
		r.fail(err.Reason, err.Text)
	case n == 0:
		r.fail(MalformedPacket, "field longer than the packet")
	default:
		r.b = r.b[n:]
	}
	return v
}

// binary reads Binary Data (section 1.5.6). The result is nil only after an error.
func (r *reader) binary() []byte { return r.take(int(r.uint16())) }

// text reads a UTF-8 Encoded String (section 1.5.4).
func (r *reader) text() []byte {
	b := r.binary()
	if !utf8.Valid(b) || bytes.IndexByte(b, 0) >= 0 {
		r.fail(MalformedPacket, "string is not UTF-8 or holds U+0000")
		return nil
	}
	return b
}

// packetID reads a Packet Identifier, which must not be 0 (section 2.2.1).
func (r *reader) packetID() uint16 {
	id := r.uint16()
	if id == 0 {
		r.fail(ProtocolError, "packet identifier 0")
	}
	return id
}

// varint decodes the Variable Byte Integer at the front of b and returns its value and
// length; n is 0 if b is too short. An encoding that is longer than necessary is an error
// (section 1.5.5).
func varint(b []byte) (v uint32, n int, err *Error) {
	for i, c := range b {
		v |= uint32(c&0x7f) << (7 * i)
		if c < 0x80 {
			if c == 0 && i > 0 {
				return 0, 0, &Error{MalformedPacket, "variable byte integer longer than needed"}
			}
			return v, i + 1, nil
		}
		if i == 3 {
			return 0, 0, &Error{MalformedPacket, "variable byte integer longer than 4 bytes"}
		}
	}
	return 0, 0, nil
}

// varintLen returns the encoded length of v in bytes.
func varintLen(v uint32) int {
	switch {
	case v < 1<<7:
		return 1
	case v < 1<<14:
		return 2
	case v < 1<<21:
		return 3
	}
	return 4
}

func appendVarint(dst []byte, v uint32) []byte {
	if v > maxVarint {
		panic("mqtt: length or identifier above 268,435,455")
	}
	for v >= 0x80 {
		dst = append(dst, byte(v)|0x80)
		v >>= 7
	}
	return append(dst, byte(v))
}

// insertLen inserts the length of dst[at:] in front of it, as a Variable Byte Integer.
// This needs no first pass that computes lengths, and the part that moves is short.
func insertLen(dst []byte, at int) []byte {
	n := len(dst) - at
	if n > maxVarint {
		panic("mqtt: packet above 268,435,455 bytes")
	}
	var pad [4]byte
	used := varintLen(uint32(n))
	dst = append(dst, pad[:used]...)
	copy(dst[at+used:], dst[at:at+n])
	appendVarint(dst[:at], uint32(n))
	return dst
}

// appendField appends the length of v, then v (sections 1.5.4 and 1.5.6).
func appendField[T string | []byte](dst []byte, v T) []byte {
	if len(v) > 0xffff {
		panic("mqtt: field above 65,535 bytes")
	}
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(v)))
	return append(dst, v...)
}
