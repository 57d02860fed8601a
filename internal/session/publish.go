package session

import (
	"time"

	"pubsub"
	"pubsub/internal/mqtt"
)

// ReceiveMaximum is how many messages of QoS 1 a client may have unacknowledged: the
// Receive Maximum of every CONNACK (section 3.2.2.3.3).
const ReceiveMaximum = 256

// publish takes a PUBLISH (section 3.3). What the codec has not refused is checked in
// this order: subscription identifier, QoS, receive maximum, topic alias, size, topic,
// right. Only a missing right leaves the connection open: PUBACK reports it at QoS 1, and
// nothing can at QoS 0.
func (s *Session) publish(p *mqtt.Publish, unacknowledged int, now time.Time, out *Output) {
	reason := mqtt.Success
	topic, err := pubsub.ParseTopic(p.Topic)
	switch {
	case len(p.SubscriptionIDs) > 0: // section 3.3.4: from servers only
		reason = mqtt.ProtocolError
	case p.QoS > maximumQoS:
		reason = mqtt.QoSNotSupported
	case p.QoS > 0 && unacknowledged >= ReceiveMaximum:
		reason = mqtt.ReceiveMaximumExceeded
	case p.TopicAlias > 0: // the Topic Alias Maximum is 0
		reason = mqtt.TopicAliasInvalid
	case len(p.Payload) > s.opts.MaxMessageSize:
		reason = mqtt.PacketTooLarge
	case err != nil:
		reason = mqtt.TopicNameInvalid
	}
	if reason != mqtt.Success {
		s.fail(reason, now, out)
		return
	}
	m := pubsub.Message{Topic: topic, Retain: p.Retain, HasTTL: p.HasExpiry, TTL: p.Expiry}
	// One allocation for both. They are copied because the packet's memory is the
	// driver's.
	both := make([]byte, 0, len(p.Payload)+len(p.Properties))
	both = append(append(both, p.Payload...), p.Properties...)
	n := len(p.Payload)
	m.Data, m.Properties = both[:n:n], both[n:]
	s.deliver(Publish{Message: m, PacketID: p.PacketID}, now, out)
}

// deliver publishes p as a message of the client, if the client has the right.
func (s *Session) deliver(p Publish, now time.Time, out *Output) {
	switch t := p.Message.Topic; {
	case t.Reserved():
		out.Effects = append(out.Effects, ReportDrop{t, DropReserved, p.Will, p.PacketID})
	case !s.grant.CanWrite(t):
		out.Effects = append(out.Effects, ReportDrop{t, DropForbidden, p.Will, p.PacketID})
	default:
		p.Message.Published, p.Message.Sender = now, s.clientHash
		out.Effects = append(out.Effects, p)
	}
}

// published acknowledges a PUBLISH of QoS 1 (section 3.4).
func (s *Session) published(e Published, now time.Time, out *Output) {
	if s.state.connected() {
		s.reply(&mqtt.Ack{Kind: mqtt.TypePuback, PacketID: e.PacketID, Reason: e.Reason}, now, out)
	}
}
