package ws

import (
	"encoding/binary"
	"strconv"
	"unicode/utf8"

	"github.com/gobwas/ws"
)

// DefaultMaxFrame is the default of [Decoder.MaxFrame], in bytes.
const DefaultMaxFrame = 1 << 20

// Decoder decodes a client's frames from a byte stream that arrives in pieces of any
// length. It buffers incomplete headers and control frames, but never data. The zero value
// is ready to use. A Decoder must not be used by two goroutines at once.
type Decoder struct {
	// MaxFrame is the maximum payload of a data frame, in bytes. 0 means
	// [DefaultMaxFrame]. It must not change after the first call of Next.
	MaxFrame uint32

	left       uint32 // payload bytes of the current frame that have not arrived
	control    *[MaxControlPayload]byte
	controlLen uint8 // control[:controlLen] has arrived
	mask       [4]byte
	maskPos    uint8  // the index in mask for the next byte
	op         Opcode // of the current frame
	fragmented bool   // within a fragmented message
	ended      bool   // after a close or an error
	headLen    uint8
	head       [ws.MaxHeaderSize]byte // head[:headLen] is an incomplete header
}

// Kind is the type of an [Event].
type Kind uint8

// The kinds of events.
const (
	None  Kind = iota // more bytes are needed
	Data              // a piece of the binary data
	Ping              // must be answered by a pong with the same payload
	Pong              // can be ignored
	Close             // must be answered by a close with the same code
)

// Event is a decoded frame, or a piece of one.
type Event struct {
	Kind Kind
	// Payload is the piece of data (never empty), the payload of a ping or pong, or the
	// reason of a close. It aliases the argument of Next or the decoder, and is valid
	// until the next call.
	Payload []byte
	// Code is the status code of a close, or CodeNone for a close without one.
	Code Code
}

// CloseError reports a violation of the protocol, with the status code for closing the
// connection (RFC 6455 section 7.1.7).
type CloseError struct {
	Code Code
	Text string // for the client
}

func (e *CloseError) Error() string {
	return "websocket: " + e.Text + " (close " + strconv.Itoa(int(e.Code)) + ")"
}

// Next decodes b up to the end of its first event, and returns the number of bytes that it
// has consumed: the next call must continue there. With an event of kind None, all of b has
// been consumed. Data is unmasked in place, in b, and returned as it arrives, without the
// boundaries of frames and messages.
//
// The error is a [*CloseError]. After an error or a Close event, Next discards its input.
func (d *Decoder) Next(b []byte) (ev Event, n int, err error) {
	for n < len(b) {
		if d.ended {
			return Event{}, len(b), nil
		}
		if d.left == 0 {
			k, ok := d.fillHeader(b[n:])
			n += k
			if !ok {
				return Event{}, n, nil
			}
			if err := d.readHeader(); err != nil {
				d.ended = true
				return Event{}, n, err
			}
			if d.left > 0 || d.op.IsData() {
				continue // to the payload, or past an empty data frame
			}
		}
		piece := b[n:]
		if uint64(len(piece)) > uint64(d.left) {
			piece = piece[:d.left]
		}
		n += len(piece)
		ws.Cipher(piece, d.mask, int(d.maskPos))
		d.maskPos = uint8((int(d.maskPos) + len(piece)) % len(d.mask))
		d.left -= uint32(len(piece))
		if d.op.IsData() {
			return Event{Kind: Data, Payload: piece}, n, nil
		}
		if payload, ok := d.fillControl(piece); ok {
			ev, err := d.controlEvent(payload)
			return ev, n, err
		}
	}
	return Event{}, n, nil
}

// fillHeader copies the missing bytes of the header from the start of b, and returns their
// number. It reports whether the header is complete.
func (d *Decoder) fillHeader(b []byte) (n int, ok bool) {
	for n < len(b) {
		want := ws.MinHeaderSize
		if d.headLen >= ws.MinHeaderSize {
			want = headerSize(d.head[1])
		}
		k := copy(d.head[d.headLen:want], b[n:])
		d.headLen += uint8(k)
		n += k
		if d.headLen >= ws.MinHeaderSize && int(d.headLen) == headerSize(d.head[1]) {
			return n, true
		}
	}
	return n, false
}

// headerSize returns the length of a header whose second byte is b.
func headerSize(b byte) int {
	n := ws.MinHeaderSize
	if b&0x80 != 0 {
		n += 4
	}
	switch b & 0x7f {
	case 126:
		n += 2
	case 127:
		n += 8
	}
	return n
}

// readHeader starts a frame with the complete header in head (RFC 6455 section 5.2).
func (d *Decoder) readHeader() error {
	b := d.head[:d.headLen]
	d.headLen = 0
	h := ws.Header{
		Fin:    b[0]&0x80 != 0,
		Rsv:    b[0] >> 4 & 7,
		OpCode: Opcode(b[0] & 0xf),
		Masked: b[1]&0x80 != 0,
		Length: int64(b[1] & 0x7f),
	}
	switch h.Length {
	case 126:
		h.Length = int64(binary.BigEndian.Uint16(b[2:]))
	case 127:
		h.Length = int64(binary.BigEndian.Uint64(b[2:]))
	}
	if h.Masked {
		copy(h.Mask[:], b[len(b)-len(h.Mask):])
	}
	// A length of 2^63 or more is negative here, so HeaderSize gives a short header.
	if ws.HeaderSize(h) != len(b) {
		return &CloseError{CodeProtocolError, "payload length not in its shortest form"}
	}
	state := ws.StateServerSide
	if d.fragmented {
		state = state.Set(ws.StateFragmented)
	}
	if err := ws.CheckHeader(h, state); err != nil {
		return &CloseError{CodeProtocolError, err.Error()}
	}
	limit := d.MaxFrame
	if limit == 0 {
		limit = DefaultMaxFrame
	}
	switch {
	case h.OpCode == ws.OpText:
		return &CloseError{CodeUnsupported, "text frames are not supported, send binary ones"}
	case h.OpCode.IsData() && h.Length > int64(limit):
		return &CloseError{CodeTooBig, "frame of more than " + strconv.FormatUint(uint64(limit), 10) + " bytes"}
	}
	if h.OpCode.IsData() {
		d.fragmented = !h.Fin
	}
	d.op, d.mask, d.maskPos, d.left = h.OpCode, h.Mask, 0, uint32(h.Length)
	return nil
}

// fillControl adds piece to the payload of a control frame, and reports whether the payload
// is complete. Only a frame that arrives in several pieces is copied.
func (d *Decoder) fillControl(piece []byte) (payload []byte, ok bool) {
	if d.left == 0 && d.controlLen == 0 {
		return piece, true
	}
	if d.control == nil {
		d.control = new([MaxControlPayload]byte)
	}
	d.controlLen += uint8(copy(d.control[d.controlLen:], piece))
	if d.left > 0 {
		return nil, false
	}
	payload = d.control[:d.controlLen]
	d.control, d.controlLen = nil, 0 // because most connections never need it again
	return payload, true
}

func (d *Decoder) controlEvent(payload []byte) (Event, error) {
	switch d.op {
	case ws.OpPing:
		return Event{Kind: Ping, Payload: payload}, nil
	case ws.OpPong:
		return Event{Kind: Pong, Payload: payload}, nil
	}
	d.ended = true
	if len(payload) == 0 {
		return Event{Kind: Close, Code: CodeNone}, nil
	}
	if len(payload) == 1 {
		return Event{}, &CloseError{CodeProtocolError, "close payload of one byte"}
	}
	code := Code(binary.BigEndian.Uint16(payload))
	if !mayBeReceived(code) {
		return Event{}, &CloseError{CodeProtocolError, "invalid close code"}
	}
	if !utf8.Valid(payload[2:]) {
		return Event{}, &CloseError{CodeInvalidPayload, "close reason is not valid UTF-8"}
	}
	return Event{Kind: Close, Code: code, Payload: payload[2:]}, nil
}

// mayBeReceived reports whether a close frame may have the status code c (RFC 6455 section
// 7.4, and the IANA registry, which has added 1012 to 1014).
func mayBeReceived(c Code) bool {
	return 1000 <= c && c <= 1003 || 1007 <= c && c <= 1014 || 3000 <= c && c <= 4999
}
