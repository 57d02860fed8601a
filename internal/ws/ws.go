// Package ws is the server's side of the WebSocket protocol (RFC 6455) as pure
// functions: the opening handshake, a decoder for what clients send, and the
// frames that go back. It does no input or output, so the same code serves a
// goroutine with a blocking connection and an event loop over raw descriptors.
// No extension is ever negotiated.
//
// From github.com/gobwas/ws it takes the opcodes and status codes, the rules for
// frame headers (CheckHeader) and the vectorised unmasking (Cipher). Its readers
// and upgraders want a connection to read from and are used by the tests only.
package ws

import (
	"encoding/binary"
	"strings"
	"unicode/utf8"

	"github.com/gobwas/ws"
)

// Opcode says what a frame is (RFC 6455 section 5.2).
type Opcode = ws.OpCode

// The opcodes that a server sends.
const (
	OpBinary = ws.OpBinary
	OpClose  = ws.OpClose
	OpPong   = ws.OpPong
)

// Code is the status code of a close (RFC 6455 section 7.4.1).
type Code = ws.StatusCode

// The status codes that a broker sends, and CodeNone, which stands for a close
// without one and is never sent.
const (
	CodeNormal         = ws.StatusNormalClosure
	CodeProtocolError  = ws.StatusProtocolError
	CodeUnsupported    = ws.StatusUnsupportedData
	CodeNone           = ws.StatusNoStatusRcvd
	CodeInvalidPayload = ws.StatusInvalidFramePayloadData
	CodeTooBig         = ws.StatusMessageTooBig
)

// MaxControlPayload is the longest payload of a control frame, in bytes (RFC 6455
// section 5.5).
const MaxControlPayload = ws.MaxControlFramePayloadSize

// HeaderLen returns the length of the header that [AppendHeader] appends for a
// payload of payloadLen bytes.
func HeaderLen(payloadLen int) int {
	return ws.HeaderSize(ws.Header{Length: int64(payloadLen)})
}

// AppendHeader appends the header of an unfragmented, unmasked frame, as servers
// send them (RFC 6455 section 5.2). payloadLen is not negative and, for a control
// frame, at most [MaxControlPayload].
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

// AppendPong appends the answer to a ping with that payload (RFC 6455 section
// 5.5.3). A payload over [MaxControlPayload] is cut there.
func AppendPong(dst, payload []byte) []byte {
	payload = payload[:min(len(payload), MaxControlPayload)]
	return append(AppendHeader(dst, OpPong, len(payload)), payload...)
}

// AppendClose appends a close frame (RFC 6455 section 5.5.1). With [CodeNone] it
// has no payload; so the code of a received close can be echoed as it is. A
// reason that does not fit is cut between two characters.
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
