package session

import (
	"time"

	"pubsub"
	"pubsub/internal/mqtt"
)

// publish takes a PUBLISH (section 3.3). What the codec has not refused is
// checked in this order: subscription identifier, QoS, topic alias, size, topic,
// right. Only the last leaves the connection up: QoS 0 has no answer that could
// say so.
func (s *Session) publish(p *mqtt.Publish, now time.Time, out *Output) {
	reason := mqtt.Success
	topic, err := pubsub.ParseTopic(p.Topic)
	switch {
	case len(p.SubscriptionIDs) > 0: // section 3.3.4: from servers only
		reason = mqtt.ProtocolError
	case p.QoS > 0:
		reason = mqtt.QoSNotSupported
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
	s.deliver(m, false, now, out)
}

// deliver has m published as the client's, if it may be.
func (s *Session) deliver(m pubsub.Message, will bool, now time.Time, out *Output) {
	switch {
	case m.Topic.Reserved():
		out.Effects = append(out.Effects, Dropped{m.Topic, DropReserved, will})
	case !s.grant.CanWrite(m.Topic):
		out.Effects = append(out.Effects, Dropped{m.Topic, DropForbidden, will})
	default:
		m.Published, m.Sender = now, s.owner
		out.Effects = append(out.Effects, Publish{Message: m, Will: will})
	}
}
