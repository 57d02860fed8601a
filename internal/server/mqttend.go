package server

import (
	"time"

	"pubsub/internal/conn"
	"pubsub/internal/session"
)

// endWait is how long the end of a session waits for the client's publishes to be
// acknowledged, unless the client has caused the end.
const endWait = time.Second

// endWith passes e, which ends the session, once the client's publishes of QoS 1 are
// acknowledged, because the client would publish unacknowledged ones again.
func (m *mqttConn) endWith(e session.Event) {
	if q := m.publishes.Load(); q != nil && q.endAfter(m, e) {
		m.DueBy(m.s.o.Now().Add(endWait))
		return
	}
	m.step(e)
}

// Name returns the name of the transport.
func (m *mqttConn) Name() string { return transportMQTT }

// Tick sends a keep-alive frame, or ends a session that is overdue.
func (m *mqttConn) Tick(now, wrote time.Time) time.Time {
	next := wrote.Add(m.s.o.WSKeepAlive)
	if !next.After(now) {
		if b := m.framing().keepAlive(); b != nil {
			m.SendKeepAlive(b)
		}
		next = now.Add(m.s.o.WSKeepAlive)
	}
	e, at := m.overdue(now)
	if e != nil {
		// In a goroutine, because a will may have to be stored, and the shard must not wait
		// for that. step calls DueBy.
		m.s.registry.Go(func() { m.step(e) })
	}
	if !at.IsZero() && at.Before(next) {
		next = at
	}
	return next
}

// overdue returns the event that is due at now. If there is none, it returns the time of the
// next check, which is zero for never.
func (m *mqttConn) overdue(now time.Time) (session.Event, time.Time) {
	m.sessionMu.Lock()
	at := m.session.Deadline(now)
	silent, connected := m.session.TimedOut(now)
	m.sessionMu.Unlock()
	switch {
	case silent && m.mayHaveSentPacket(connected):
		m.patience++
		return nil, now.Add(recheckInterval)
	case !at.IsZero() && !now.Before(at):
		m.patience = 0
		return session.Tick{}, time.Time{}
	}
	m.patience = 0
	if q := m.publishes.Load(); q != nil {
		e, by := q.overdueEnd(now)
		if e != nil {
			return e, time.Time{}
		}
		if !by.IsZero() && (at.IsZero() || by.Before(at)) {
			at = by
		}
	}
	return nil, at
}

const (
	// recheckInterval is the time until a client that seems silent is checked again.
	recheckInterval = 100 * time.Millisecond
	// keepAlivePatience and connectPatience are the numbers of such checks before a client
	// that keeps sending bytes, but no packet, counts as silent. A connected client may have
	// to wait for the backplane.
	keepAlivePatience = (backplaneWait + time.Second) / recheckInterval
	connectPatience   = time.Second / recheckInterval
)

// mayHaveSentPacket reports whether a packet may be among the client's bytes that are unread or
// are being served. After a pause of this process, or while the client's messages wait for
// the backplane, the delay is not the client's fault.
func (m *mqttConn) mayHaveSentPacket(connected bool) bool {
	most := keepAlivePatience
	if !connected {
		most = connectPatience
		if m.IsFull() { // it sends more than a CONNECT, and does not read
			return false
		}
	}
	return time.Duration(m.patience) < most && m.HasInput()
}

// End ends the session for a reason of the server's. The session checks the token's expiry
// itself, in Tick.
func (m *mqttConn) End(why conn.Reason) {
	switch why {
	case conn.KeyRevoked:
		m.step(session.Revoked{})
	case conn.Draining:
		m.endWith(session.Draining{})
	}
}

// Closed reports the end to the session, which may publish its will, and gives up the client
// identifier.
func (m *mqttConn) Closed() {
	m.step(session.TransportClosed{})
	m.unclaim()
}
