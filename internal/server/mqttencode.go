package server

import (
	"time"

	"pubsub"
	"pubsub/internal/conn"
	"pubsub/internal/hub"
	"pubsub/internal/mqtt"
	"pubsub/internal/ws"
)

// MaxHead covers a frame's header, an expiry and a Subscription Identifier. The topic
// belongs to the shared encoding.
func (m *mqttConn) MaxHead() int { return 32 }

// Encode implements [conn.Protocol].
func (m *mqttConn) Encode(w *conn.Writer, d *hub.Delivery, now time.Time, last bool) {
	p := d.Message
	if p == nil {
		return // MQTT has no way to say that messages were dropped
	}
	retain := d.Initial || p.Retain && d.Options.RetainAsPublished
	if d.Options.ID == 0 && (!p.HasTTL || p.RemainingTTL(now) == p.TTL) {
		encoding, encode := encodingMQTT, appendMessage
		if retain {
			encoding, encode = encodingMQTTRetain, appendRetainMessage
		}
		message := p.Encoded(encoding, encode)
		if m.takes(len(packetOf(message))) {
			w.Add(m.framing().message(message), last)
		}
		return
	}
	// The subscriber's own head before the shared payload.
	pub := mqttPublish(&p.Message, retain)
	if p.HasTTL {
		pub.Expiry = p.RemainingTTL(now)
	}
	if d.Options.ID != 0 {
		w.Scratch[0] = d.Options.ID
		pub.SubscriptionIDs = w.Scratch[:]
	}
	size := pub.Size()
	if !m.takes(size) {
		return
	}
	w.SetHead(pub.AppendHead(m.framing().appendHeader(w.Head(), size)))
	w.Add(pub.Payload, last)
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

// appendMessage appends m as a PUBLISH in a WebSocket message of its own.
func appendMessage(dst []byte, m *pubsub.Message) []byte { return appendAsMessage(dst, m, false) }

// appendRetainMessage is appendMessage with RETAIN set.
func appendRetainMessage(dst []byte, m *pubsub.Message) []byte { return appendAsMessage(dst, m, true) }

func appendAsMessage(dst []byte, m *pubsub.Message, retain bool) []byte {
	pub := mqttPublish(m, retain)
	return pub.Append(ws.AppendHeader(dst, ws.OpBinary, pub.Size()))
}

// packetOf returns the packet in a message of appendMessage. The second byte of the header
// says how long the header is (RFC 6455 section 5.2).
func packetOf(message []byte) []byte {
	switch message[1] {
	case 126:
		return message[4:]
	case 127:
		return message[10:]
	}
	return message[2:]
}
