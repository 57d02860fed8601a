package server

import (
	"time"

	"pubsub"
	"pubsub/internal/hub"
	"pubsub/internal/mqtt"
	"pubsub/internal/ws"
)

// head covers a frame's header, an expiry and a Subscription Identifier. The topic
// belongs to the shared encoding.
func (m *mqttConn) head() int { return 32 }

func (m *mqttConn) encode(w *writer, d *hub.Delivery, now time.Time, last bool) {
	p := d.Message
	if p == nil {
		return // MQTT has no way to say that messages were dropped
	}
	retain := d.Initial || p.Retain && d.Options.RetainAsPublished
	if d.Options.ID == 0 && (!p.HasTTL || p.RemainingTTL(now) == p.TTL) {
		shape, encode := shapeMQTT, appendMQTT
		if retain {
			shape, encode = shapeMQTTRetain, appendMQTTRetain
		}
		frame := p.Encoded(shape, encode)
		if m.takes(len(frame) - ws.HeaderLen(len(frame))) {
			w.bytes(frame, last)
		}
		return
	}
	// The subscriber's own head before the shared payload.
	pub := mqttPublish(&p.Message, retain)
	if p.HasTTL {
		pub.Expiry = p.RemainingTTL(now)
	}
	if d.Options.ID != 0 {
		w.ids[0] = d.Options.ID
		pub.SubscriptionIDs = w.ids[:]
	}
	size := pub.Size()
	if !m.takes(size) {
		return
	}
	w.setHead(pub.AppendHead(ws.AppendHeader(w.head(), ws.OpBinary, size)))
	w.bytes(pub.Payload, last)
}

// takes reports whether the client takes a packet of that size (MQTT 5.0 section
// 3.1.2.11.4).
func (m *mqttConn) takes(size int) bool {
	if m.maxPacket == 0 || size <= int(m.maxPacket) {
		return true
	}
	m.s.o.Events.DeliveryDropped("packet-too-large")
	return false
}

func mqttPublish(m *pubsub.Message, retain bool) mqtt.Publish {
	return mqtt.Publish{
		Retain:     retain,
		Topic:      string(m.Topic),
		HasExpiry:  m.HasTTL,
		Expiry:     m.TTL,
		Properties: m.Properties,
		Payload:    m.Data,
	}
}

// appendMQTT appends m as a PUBLISH in a frame of its own.
func appendMQTT(dst []byte, m *pubsub.Message) []byte { return appendMQTTFrame(dst, m, false) }

func appendMQTTRetain(dst []byte, m *pubsub.Message) []byte { return appendMQTTFrame(dst, m, true) }

func appendMQTTFrame(dst []byte, m *pubsub.Message, retain bool) []byte {
	pub := mqttPublish(m, retain)
	return pub.Append(ws.AppendHeader(dst, ws.OpBinary, pub.Size()))
}
