package mqtt

import "encoding/binary"

// Pingreq is a PINGREQ packet (section 3.12).
type Pingreq struct{}

// Type returns [TypePingreq].
func (*Pingreq) Type() Type { return TypePingreq }

// Append implements [Packet].
func (*Pingreq) Append(dst []byte) []byte { return append(dst, byte(TypePingreq)<<4, 0) }

// Pingresp is a PINGRESP packet (section 3.13).
type Pingresp struct{}

// Type returns [TypePingresp].
func (*Pingresp) Type() Type { return TypePingresp }

// Append implements [Packet].
func (*Pingresp) Append(dst []byte) []byte { return append(dst, byte(TypePingresp)<<4, 0) }

// Disconnect is a DISCONNECT packet (section 3.14).
type Disconnect struct {
	Reason ReasonCode
	// SessionExpiry is in seconds. It is 0 if absent. Only clients send it.
	SessionExpiry uint32
	// ReasonString is empty if absent.
	ReasonString string
}

// Type returns [TypeDisconnect].
func (*Disconnect) Type() Type { return TypeDisconnect }

// disconnect reads a DISCONNECT, which may end before the reason code or before
// the properties (sections 3.14.2.1 and 3.14.2.2.1).
func (r *reader) disconnect() Packet {
	d := &Disconnect{}
	if len(r.b) > 0 {
		d.Reason = ReasonCode(r.byte())
	}
	if len(r.b) == 0 {
		return d
	}
	p := r.properties(inDisconnect)
	for p.next(r) {
		switch p.id {
		case propSessionExpiry:
			d.SessionExpiry = p.num
		case propReasonString:
			d.ReasonString = string(p.data)
		}
	}
	return d
}

// Append implements [Packet]. It always writes the reason code and the property length,
// which the standard makes optional, because some clients cannot read a packet without
// them.
func (d *Disconnect) Append(dst []byte) []byte {
	dst = append(dst, byte(TypeDisconnect)<<4)
	start := len(dst)
	dst = append(dst, byte(d.Reason))
	props := len(dst)
	dst = appendOptUint32(dst, propSessionExpiry, d.SessionExpiry)
	dst = appendOptText(dst, propReasonString, d.ReasonString)
	dst = insertLen(dst, props)
	return insertLen(dst, start)
}

// Ack is a PUBACK, PUBREC, PUBREL or PUBCOMP packet (sections 3.4 to 3.7). The server
// sends only PUBACK and refuses all four from clients.
type Ack struct {
	// Kind is the packet type, [TypePuback] to [TypePubcomp].
	Kind     Type
	PacketID uint16
	Reason   ReasonCode
}

// Type returns a.Kind.
func (a *Ack) Type() Type { return a.Kind }

// ack reads an acknowledgement, which may end before the reason code or before
// the properties (sections 3.4.2.1 and 3.4.2.2.1).
func (r *reader) ack(t Type) Packet {
	a := &Ack{Kind: t, PacketID: r.packetID()}
	if len(r.b) > 0 {
		a.Reason = ReasonCode(r.byte())
	}
	if len(r.b) > 0 {
		r.skipProperties(inAck)
	}
	return a
}

// Append implements [Packet]. It omits the reason code of Success, because all clients
// can read that form. After any other reason code it writes the property length, because
// some clients cannot read a packet without it.
func (a *Ack) Append(dst []byte) []byte {
	first := byte(a.Kind) << 4
	if a.Kind == TypePubrel {
		first |= 2
	}
	dst = append(dst, first)
	start := len(dst)
	dst = binary.BigEndian.AppendUint16(dst, a.PacketID)
	if a.Reason != Success {
		dst = append(dst, byte(a.Reason), 0)
	}
	return insertLen(dst, start)
}

// Auth is an AUTH packet (section 3.15). The server refuses all of them.
type Auth struct {
	Reason ReasonCode
	// Method is the Authentication Method; it is empty if absent.
	Method string
}

// Type returns [TypeAuth].
func (*Auth) Type() Type { return TypeAuth }

// auth reads an AUTH, which may be empty (section 3.15.2.1).
func (r *reader) auth() Packet {
	a := &Auth{}
	if len(r.b) == 0 {
		return a
	}
	a.Reason = ReasonCode(r.byte())
	p := r.properties(inAuth)
	for p.next(r) {
		if p.id == propAuthMethod {
			a.Method = string(p.data)
		}
	}
	return a
}

// Append implements [Packet].
func (a *Auth) Append(dst []byte) []byte {
	dst = append(dst, byte(TypeAuth)<<4)
	start := len(dst)
	if a.Reason != Success || a.Method != "" {
		dst = append(dst, byte(a.Reason))
		props := len(dst)
		dst = appendOptText(dst, propAuthMethod, a.Method)
		dst = insertLen(dst, props)
	}
	return insertLen(dst, start)
}

// skipProperties checks and ignores the properties.
func (r *reader) skipProperties(in packetSet) {
	for p := r.properties(in); p.next(r); {
	}
}
