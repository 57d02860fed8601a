package server

import (
	"pubsub/internal/mqtt"
	"pubsub/internal/session"
)

// publish starts to publish a message, unless its publisher has exceeded its rate. It returns
// the answer, or nil if there is none now. Except for a will, it then waits until the queue
// has room for another message.
func (m *mqttConn) publish(e session.Publish) (answer session.Event) {
	if _, ok := m.s.mayPublish(m.publisher); !ok {
		m.s.o.Events.PublishDropped("rate-limit", string(e.Message.Topic))
		return m.rejectPublish(e.PacketID, mqtt.QuotaExceeded)
	}
	q := m.queue()
	answer = q.add(m, e)
	if !e.Will {
		q.waitRoom(m.s)
	}
	return answer
}

// rejectPublish answers a PUBLISH of QoS 1 that is not published.
func (m *mqttConn) rejectPublish(packetID uint16, reason mqtt.ReasonCode) (answer session.Event) {
	if packetID == 0 {
		return nil
	}
	q := m.queue()
	answer = q.reject(m, packetID, reason)
	q.waitRoom(m.s)
	return answer
}

// queue returns the publish queue of m, which it makes for the first message.
func (m *mqttConn) queue() *publishQueue {
	q := m.publishes.Load()
	if q == nil { // another goroutine may be publishing the will
		m.publishes.CompareAndSwap(nil, new(publishQueue))
		q = m.publishes.Load()
	}
	return q
}

// unacknowledged returns the number of PUBLISH packets that have no PUBACK yet.
func (m *mqttConn) unacknowledged() int {
	if q := m.publishes.Load(); q != nil {
		return q.unacknowledged()
	}
	return 0
}
