// Package ws implements the server side of the WebSocket protocol (RFC 6455) as pure
// functions: the opening handshake, a decoder for clients' frames, and an encoder for the
// server's. It does no I/O, so the same code serves a goroutine with a blocking connection
// and an event loop over raw descriptors. It never negotiates an extension.
//
// The opcodes, the status codes, the rules for frame headers (CheckHeader) and the
// vectorised unmasking (Cipher) are those of github.com/gobwas/ws. The readers and
// upgraders of that package need a connection to read from, so only the tests use them.
package ws

import (
	"encoding/binary"
	"strings"
	"unicode/utf8"

	"github.com/gobwas/ws"
)

// Opcode is the type of a frame (RFC 6455 section 5.2).
type Opcode = ws.OpCode

// The opcodes that a server sends.
const (
	OpBinary = ws.OpBinary
	OpClose  = ws.OpClose
	OpPong   = ws.OpPong
)

// Code is the status code of a close frame (RFC 6455 section 7.4.1).
type Code = ws.StatusCode

// The status codes that a broker sends, and CodeNone, which is never sent: it stands for
// a close frame without a status code.
const (
	CodeNormal         = ws.StatusNormalClosure
	CodeProtocolError  = ws.StatusProtocolError
	CodeUnsupported    = ws.StatusUnsupportedData
	CodeNone           = ws.StatusNoStatusRcvd
	CodeInvalidPayload = ws.StatusInvalidFramePayloadData
	CodeTooBig         = ws.StatusMessageTooBig
)

// MaxControlPayload is the maximum payload of a control frame, in bytes (RFC 6455
// section 5.5).
const MaxControlPayload = ws.MaxControlFramePayloadSize

// HeaderLen returns the length of the header that [AppendHeader] appends for a
// payload of payloadLen bytes.
func HeaderLen(payloadLen int) int {
	return ws.HeaderSize(ws.Header{Length: int64(payloadLen)})
}

// AppendHeader appends the header of an unfragmented, unmasked frame, which is the form
// that servers send (RFC 6455 section 5.2). payloadLen must not be negative and, for a
// control frame, not exceed [MaxControlPayload].
func AppendHeader(dst []byte, op Opcode, payloadLen int) []byte {
	const fin = 0x80
	dst = append(dst, fin|byte(op))
	switch HeaderLen(payloadLen) {
	case 2:
		return append(dst, byte(payloadLen))
	case 4:
		return binary.BigEndian.AppendUint16(append(dst, 126), uint16(payloadLen))
	}
	return binary.BigEndian.AppendUint64(append(dst, 127), uint64(payloadLen))
}

// AppendPong appends the pong that answers a ping with payload (RFC 6455 section 5.5.3).
// It truncates the payload to [MaxControlPayload].
func AppendPong(dst, payload []byte) []byte {
	payload = payload[:min(len(payload), MaxControlPayload)]
	return append(AppendHeader(dst, OpPong, len(payload)), payload...)
}

// AppendClose appends a close frame (RFC 6455 section 5.5.1). With [CodeNone] the frame
// has no payload, so the code of a received close can be echoed as it is. A reason that
// does not fit is truncated between two characters.
func AppendClose(dst []byte, code Code, reason string) []byte {
	if code == CodeNone {
		return AppendHeader(dst, OpClose, 0)
	}
	reason = strings.ToValidUTF8(reason, "\uFFFD")
	if n := MaxControlPayload - 2; len(reason) > n {
		for !utf8.RuneStart(reason[n]) {
			n--
		}
		reason = reason[:n]
	}
	dst = AppendHeader(dst, OpClose, 2+len(reason))
	dst = binary.BigEndian.AppendUint16(dst, uint16(code))
	return append(dst, reason...)
}
