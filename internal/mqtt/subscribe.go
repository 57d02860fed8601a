package mqtt

import (
	"encoding/binary"
	"strings"
)

// SharedPrefix is the prefix of the topic filters of shared subscriptions (section 4.8.2).
const SharedPrefix = "$share/"

// Subscribe is a SUBSCRIBE packet (section 3.8).
type Subscribe struct {
	PacketID uint16
	// SubscriptionID is 0 if absent.
	SubscriptionID uint32
	// Filters has at least one element.
	Filters []Filter
}

// Filter is a topic filter with its subscription options (section 3.8.3.1).
type Filter struct {
	// Topic may be any string, even an empty one.
	Topic             string
	QoS               byte
	NoLocal           bool
	RetainAsPublished bool
	// RetainHandling determines when the server sends the retained message: 0 for every
	// SUBSCRIBE, 1 only for a new subscription, 2 never.
	RetainHandling byte
}

// The bits of the subscription options.
const (
	optionNoLocal           = 0x04
	optionRetainAsPublished = 0x08
	optionReserved          = 0xC0

	retainHandlingShift = 4
)

// Type returns [TypeSubscribe].
func (*Subscribe) Type() Type { return TypeSubscribe }

func (r *reader) subscribe() Packet {
	s := &Subscribe{PacketID: r.packetID()}
	p := r.properties(inSubscribe)
	for p.next(r) {
		if p.id == propSubscriptionID {
			s.SubscriptionID = p.num
		}
	}
	for len(r.b) > 0 {
		s.Filters = append(s.Filters, r.filter())
	}
	if len(s.Filters) == 0 {
		r.fail(ProtocolError, "no topic filter")
	}
	return s
}

func (r *reader) filter() Filter {
	topic, o := string(r.text()), r.byte()
	f := Filter{
		Topic:             topic,
		QoS:               o & 3,
		NoLocal:           o&optionNoLocal != 0,
		RetainAsPublished: o&optionRetainAsPublished != 0,
		RetainHandling:    o >> retainHandlingShift & 3,
	}
	switch {
	case o&optionReserved != 0:
		r.fail(MalformedPacket, "reserved subscription options set")
	case f.QoS == 3:
		r.fail(ProtocolError, "subscription with QoS 3")
	case f.RetainHandling == 3:
		r.fail(ProtocolError, "retain handling 3")
	case f.NoLocal && strings.HasPrefix(topic, SharedPrefix):
		r.fail(ProtocolError, "no local on a shared subscription")
	}
	return f
}

// Append implements [Packet].
func (s *Subscribe) Append(dst []byte) []byte {
	dst = append(dst, byte(TypeSubscribe)<<4|2)
	start := len(dst)
	dst = binary.BigEndian.AppendUint16(dst, s.PacketID)
	props := len(dst)
	if s.SubscriptionID != 0 {
		dst = appendVarint(append(dst, byte(propSubscriptionID)), s.SubscriptionID)
	}
	dst = insertLen(dst, props)
	for i := range s.Filters {
		f := &s.Filters[i]
		o := f.QoS | f.RetainHandling<<retainHandlingShift
		if f.NoLocal {
			o |= optionNoLocal
		}
		if f.RetainAsPublished {
			o |= optionRetainAsPublished
		}
		dst = append(appendField(dst, f.Topic), o)
	}
	return insertLen(dst, start)
}

// Suback is a SUBACK packet (section 3.9).
type Suback struct {
	PacketID uint16
	// Reasons holds the result of each filter of the SUBSCRIBE, in order.
	Reasons []ReasonCode
}

// Type returns [TypeSuback].
func (*Suback) Type() Type { return TypeSuback }

func (r *reader) suback() Packet {
	id, reasons := r.reasons(inSuback)
	return &Suback{PacketID: id, Reasons: reasons}
}

// Append implements [Packet].
func (s *Suback) Append(dst []byte) []byte {
	return appendReasons(dst, TypeSuback, s.PacketID, s.Reasons)
}

// Unsubscribe is an UNSUBSCRIBE packet (section 3.10).
type Unsubscribe struct {
	PacketID uint16
	// Filters has at least one element. Each may be any string, even an empty one.
	Filters []string
}

// Type returns [TypeUnsubscribe].
func (*Unsubscribe) Type() Type { return TypeUnsubscribe }

func (r *reader) unsubscribe() Packet {
	u := &Unsubscribe{PacketID: r.packetID()}
	r.skipProperties(inUnsubscribe)
	for len(r.b) > 0 {
		u.Filters = append(u.Filters, string(r.text()))
	}
	if len(u.Filters) == 0 {
		r.fail(ProtocolError, "no topic filter")
	}
	return u
}

// Append implements [Packet].
func (u *Unsubscribe) Append(dst []byte) []byte {
	dst = append(dst, byte(TypeUnsubscribe)<<4|2)
	start := len(dst)
	dst = binary.BigEndian.AppendUint16(dst, u.PacketID)
	dst = append(dst, 0)
	for _, f := range u.Filters {
		dst = appendField(dst, f)
	}
	return insertLen(dst, start)
}

// Unsuback is an UNSUBACK packet (section 3.11).
type Unsuback struct {
	PacketID uint16
	// Reasons holds the result of each filter of the UNSUBSCRIBE, in order.
	Reasons []ReasonCode
}

// Type returns [TypeUnsuback].
func (*Unsuback) Type() Type { return TypeUnsuback }

func (r *reader) unsuback() Packet {
	id, reasons := r.reasons(inUnsuback)
	return &Unsuback{PacketID: id, Reasons: reasons}
}

// Append implements [Packet].
func (u *Unsuback) Append(dst []byte) []byte {
	return appendReasons(dst, TypeUnsuback, u.PacketID, u.Reasons)
}

// reasons reads the fields of a SUBACK or UNSUBACK.
func (r *reader) reasons(in packetSet) (id uint16, reasons []ReasonCode) {
	id = r.packetID()
	r.skipProperties(in)
	if len(r.b) == 0 {
		r.fail(ProtocolError, "no reason code")
	}
	reasons = make([]ReasonCode, len(r.b))
	for i, c := range r.take(len(r.b)) {
		reasons[i] = ReasonCode(c)
	}
	return id, reasons
}

func appendReasons(dst []byte, t Type, id uint16, reasons []ReasonCode) []byte {
	dst = append(dst, byte(t)<<4)
	dst = appendVarint(dst, uint32(3+len(reasons)))
	dst = binary.BigEndian.AppendUint16(dst, id)
	dst = append(dst, 0)
	for _, c := range reasons {
		dst = append(dst, byte(c))
	}
	return dst
}
