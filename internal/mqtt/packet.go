package mqtt

import (
	"errors"
	"fmt"
)

// Type is a control packet type (section 2.1.2).
type Type byte

// The control packet types.
const (
	TypeConnect     Type = 1
	TypeConnack     Type = 2
	TypePublish     Type = 3
	TypePuback      Type = 4
	TypePubrec      Type = 5
	TypePubrel      Type = 6
	TypePubcomp     Type = 7
	TypeSubscribe   Type = 8
	TypeSuback      Type = 9
	TypeUnsubscribe Type = 10
	TypeUnsuback    Type = 11
	TypePingreq     Type = 12
	TypePingresp    Type = 13
	TypeDisconnect  Type = 14
	TypeAuth        Type = 15
)

var typeNames = [16]string{
	TypeConnect: "CONNECT", TypeConnack: "CONNACK", TypePublish: "PUBLISH",
	TypePuback: "PUBACK", TypePubrec: "PUBREC", TypePubrel: "PUBREL", TypePubcomp: "PUBCOMP",
	TypeSubscribe: "SUBSCRIBE", TypeSuback: "SUBACK",
	TypeUnsubscribe: "UNSUBSCRIBE", TypeUnsuback: "UNSUBACK",
	TypePingreq: "PINGREQ", TypePingresp: "PINGRESP",
	TypeDisconnect: "DISCONNECT", TypeAuth: "AUTH",
}

// String returns the standard's name of t, such as "CONNECT".
func (t Type) String() string {
	if int(t) < len(typeNames) && typeNames[t] != "" {
		return typeNames[t]
	}
	return fmt.Sprintf("Type(%d)", byte(t))
}

// TypeOf returns the type of the packet that begins with the byte first. The result is 0,
// which is not a valid type, if the upper four bits are 0.
func TypeOf(first byte) Type { return Type(first >> 4) }

// Packet is a control packet: one of [*Connect], [*Connack], [*Publish], [*Ack],
// [*Subscribe], [*Suback], [*Unsubscribe], [*Unsuback], [*Pingreq], [*Pingresp],
// [*Disconnect] and [*Auth].
type Packet interface {
	// Type returns the type of the packet.
	Type() Type
	// Append appends the encoded packet to dst. It allocates only to grow dst. It
	// panics if a string or binary field has more than 65,535 bytes or the packet
	// more than [MaxPacketLen], and checks nothing else.
	Append(dst []byte) []byte
}

// MaxPacketLen is the maximum length of a packet in the protocol, fixed header included,
// in bytes (sections 1.5.5 and 2.1.4).
const MaxPacketLen = 1 + 4 + maxVarint

// ErrIncomplete means that more bytes are needed to parse the packet.
var ErrIncomplete = errors.New("mqtt: incomplete packet")

// PacketLen returns the length of the packet at the front of b, fixed header included. It
// may be greater than len(b). As long as b is too short to know the length, PacketLen
// returns 0 and no error; 5 bytes are always enough.
//
// The error is an [*Error]: [PacketTooLarge] if the packet is longer than max, or
// [MalformedPacket] if the length is not encoded as section 1.5.5 requires.
func PacketLen(b []byte, max int) (n int, err error) {
	_, n, bad := header(b)
	if bad != nil {
		return 0, bad
	}
	if n > max {
		return 0, &Error{PacketTooLarge, "packet longer than the maximum packet size"}
	}
	return n, nil
}

// header returns the lengths of the fixed header and of the whole packet at the front of
// b. Both are 0 if b is too short to know.
func header(b []byte) (head, n int, err *Error) {
	if len(b) == 0 {
		return 0, 0, nil
	}
	body, used, err := varint(b[1:])
	if err != nil || used == 0 {
		return 0, 0, err
	}
	return 1 + used, 1 + used + int(body), nil
}

// Parse parses the packet at the front of b and returns it and its length in bytes. The
// byte slices of the packet share memory with b; its strings do not. Parse allocates at
// most a small multiple of the packet's length.
//
// The error is [ErrIncomplete] or an [*Error].
func Parse(b []byte) (p Packet, n int, err error) {
	head, n, bad := header(b)
	if bad != nil {
		return nil, 0, bad
	}
	if n == 0 || n > len(b) {
		return nil, 0, ErrIncomplete
	}
	r := reader{b: b[head:n]}
	p = r.packet(b[0])
	if len(r.b) > 0 {
		r.fail(MalformedPacket, "bytes after the end of the packet's fields")
	}
	if r.err != nil {
		return nil, 0, r.err
	}
	return p, n, nil
}

// packet reads the body of the packet whose first byte is first.
func (r *reader) packet(first byte) Packet {
	t, flags := TypeOf(first), first&0xf
	switch t {
	case TypeConnect:
		return r.connect(flags)
	case TypePublish:
		return r.publish(flags)
	case TypePubrel, TypeSubscribe, TypeUnsubscribe:
		r.flags(flags, 2)
	default:
		r.flags(flags, 0)
	}
	switch t {
	case TypeConnack:
		return r.connack()
	case TypePuback, TypePubrec, TypePubrel, TypePubcomp:
		return r.ack(t)
	case TypeSubscribe:
		return r.subscribe()
	case TypeSuback:
		return r.suback()
	case TypeUnsubscribe:
		return r.unsubscribe()
	case TypeUnsuback:
		return r.unsuback()
	case TypePingreq:
		return &Pingreq{}
	case TypePingresp:
		return &Pingresp{}
	case TypeDisconnect:
		return r.disconnect()
	case TypeAuth:
		return r.auth()
	}
	r.fail(MalformedPacket, "packet type 0")
	return nil
}

// flags checks the flags of the fixed header (section 2.1.3).
func (r *reader) flags(got, want byte) {
	if got != want {
		r.fail(MalformedPacket, "invalid flags in the fixed header")
	}
}
