package mqtt

import "encoding/binary"

// Publish is a PUBLISH packet (section 3.3).
type Publish struct {
	Dup    bool
	QoS    byte
	Retain bool
	// Topic is empty only if there is a TopicAlias. Parse does not check that it is a
	// valid topic name.
	Topic string
	// PacketID is 0 with QoS 0, and not 0 otherwise.
	PacketID uint16
	// TopicAlias is 0 if absent.
	TopicAlias uint16
	// Expiry is the Message Expiry Interval in seconds; it is valid if HasExpiry is set.
	HasExpiry bool
	Expiry    uint32
	// SubscriptionIDs are the identifiers of the matching subscriptions. Only servers
	// send them.
	SubscriptionIDs []uint32
	// Properties are the properties that a server forwards unaltered: Payload Format
	// Indicator, Content Type, Response Topic, Correlation Data and User Properties
	// (section 3.3.2.3). They are encoded and in the order of the packet, without the
	// length in front.
	Properties []byte
	Payload    []byte
}

// The flags of PUBLISH in the fixed header (section 3.3.1).
const (
	flagRetain = 0x01
	flagDup    = 0x08

	qosShift = 1
)

// Type returns [TypePublish].
func (*Publish) Type() Type { return TypePublish }

func (r *reader) publish(flags byte) Packet {
	m := &Publish{Dup: flags&flagDup != 0, QoS: flags >> qosShift & 3, Retain: flags&flagRetain != 0}
	if m.QoS == 3 || m.Dup && m.QoS == 0 {
		r.flags(flags, 0)
	}
	m.Topic = string(r.text())
	if m.QoS > 0 {
		m.PacketID = r.packetID()
	}
	p := r.properties(inPublish)
	for p.next(r) {
		switch p.id {
		case propMessageExpiry:
			m.Expiry, m.HasExpiry = p.num, true
		case propTopicAlias:
			m.TopicAlias = uint16(p.num)
		case propSubscriptionID:
			m.SubscriptionIDs = append(m.SubscriptionIDs, p.num)
		default:
			p.keep()
		}
	}
	m.Properties = p.kept
	if m.Topic == "" && m.TopicAlias == 0 {
		r.fail(ProtocolError, "neither a topic nor a topic alias")
	}
	m.Payload = r.take(len(r.b))
	return m
}

// Size returns the length of the encoded packet in bytes.
func (p *Publish) Size() int {
	body := p.bodyLen()
	return 1 + varintLen(uint32(body)) + body
}

func (p *Publish) bodyLen() int {
	props := p.propertiesLen()
	n := 2 + len(p.Topic) + varintLen(uint32(props)) + props + len(p.Payload)
	if p.QoS > 0 {
		n += 2
	}
	if n > maxVarint {
		panic("mqtt: packet above 268,435,455 bytes")
	}
	return n
}

func (p *Publish) propertiesLen() int {
	n := len(p.Properties)
	if p.HasExpiry {
		n += 5
	}
	if p.TopicAlias != 0 {
		n += 3
	}
	for _, id := range p.SubscriptionIDs {
		n += 1 + varintLen(id)
	}
	return n
}

// Append implements [Packet].
func (p *Publish) Append(dst []byte) []byte { return append(p.AppendHead(dst), p.Payload...) }

// AppendHead appends the encoded packet without the payload, for subscribers that share
// the payload but not the rest. Of the payload it uses only the length. It allocates only
// to grow dst.
func (p *Publish) AppendHead(dst []byte) []byte {
	first := byte(TypePublish)<<4 | p.QoS<<qosShift
	if p.Dup {
		first |= flagDup
	}
	if p.Retain {
		first |= flagRetain
	}
	dst = append(dst, first)
	dst = appendVarint(dst, uint32(p.bodyLen()))
	dst = appendField(dst, p.Topic)
	if p.QoS > 0 {
		dst = binary.BigEndian.AppendUint16(dst, p.PacketID)
	}
	dst = appendVarint(dst, uint32(p.propertiesLen()))
	if p.HasExpiry {
		dst = appendPropUint32(dst, propMessageExpiry, p.Expiry)
	}
	dst = appendOptUint16(dst, propTopicAlias, p.TopicAlias)
	for _, id := range p.SubscriptionIDs {
		dst = appendVarint(append(dst, byte(propSubscriptionID)), id)
	}
	return append(dst, p.Properties...)
}
