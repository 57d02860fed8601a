package session

import (
	"time"

	"pubsub"
	"pubsub/internal/mqtt"
)

// ReceiveMaximum is the maximum number of unacknowledged messages of QoS 1 from a client:
// the Receive Maximum of every CONNACK (section 3.2.2.3.3).
const ReceiveMaximum = 256

// publish handles a PUBLISH (section 3.3). The checks have this order: subscription
// identifier, QoS, receive maximum, topic alias, size, topic, permission. A missing
// permission is the only failure that does not end the session. PUBACK reports it for
// QoS 1; for QoS 0 the protocol cannot report it.
func (s *Session) publish(p *mqtt.Publish, unacknowledged int, now time.Time, out *Output) {
	reason := mqtt.Success
	topic, err := pubsub.ParseTopic(p.Topic)
	switch {
	case len(p.SubscriptionIDs) > 0: // section 3.3.4: only servers send these
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
	// Copy both with one allocation, because they share the driver's memory.
	both := make([]byte, 0, len(p.Payload)+len(p.Properties))
	both = append(append(both, p.Payload...), p.Properties...)
	n := len(p.Payload)
	m.Data, m.Properties = both[:n:n], both[n:]
	s.publishMessage(Publish{Message: m, PacketID: p.PacketID}, now, out)
}

// publishMessage publishes p as a message of the client, if the client has the permission.
func (s *Session) publishMessage(p Publish, now time.Time, out *Output) {
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

// published acknowledges a PUBLISH of QoS 1 with a PUBACK (section 3.4).
func (s *Session) published(e Published, now time.Time, out *Output) {
	if s.state.connected() {
		s.reply(&mqtt.Ack{Kind: mqtt.TypePuback, PacketID: e.PacketID, Reason: e.Reason}, now, out)
	}
}
