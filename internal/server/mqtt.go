package server

import (
	"context"
	"crypto/rand"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"pubsub/internal/mqtt"
	"pubsub/internal/session"
	"pubsub/internal/ws"
)

// mqttConn is an MQTT session over a WebSocket.
type mqttConn struct {
	conn // its place in the hub and its connection

	// owned by the goroutine that reads
	decoder  ws.Decoder
	packet   *[]byte     // the part of a packet that has come so far; nil if there is none
	stranger *netip.Addr // the client's, until its token has been read
	begun    bool        // the first packet has come
	deaf     bool        // nothing more is to be taken from the client

	patience uint8 // owned by the shard's goroutine: how often tick has postponed the end of a silent client

	// set by the goroutine that reads, before it is subscribed to anything
	maxPacket uint32 // to the client; 0 is no limit
	publisher publisher

	publishes atomic.Pointer[publishQueue] // nil before the first

	smu sync.Mutex
	// guarded by smu
	session session.Session
	claimed claim
}

// newClientID returns an identifier for a client that sent none.
func newClientID() string { return "auto-" + rand.Text() }

// upgradeMQTT answers GET /mqtt with Upgrade.
func (s *Server) upgradeMQTT(w http.ResponseWriter, r *http.Request) {
	up, err := ws.CheckUpgrade(r)
	if bad := (*ws.UpgradeError)(nil); errors.As(err, &bad) {
		for k, v := range bad.Header {
			w.Header()[k] = append(w.Header()[k], v...) // boundBody may have set Connection
		}
		text(w, bad.Status, bad.Text)
		s.o.Events.Responded("/mqtt", r.Method, bad.Status)
		return
	}
	addr := s.clientAddr(r)
	// Those whose token has not been read yet are counted by themselves, so that
	// strangers cannot take the places of clients.
	place, ok := s.acquire(s.strangers, addr)
	if !ok {
		s.o.Events.Refused(transportMQTT, "too-many-connections")
		retryLater(w, "Too many connections", 5, 15)
		s.o.Events.Responded("/mqtt", r.Method, http.StatusServiceUnavailable)
		return
	}
	m := &mqttConn{stranger: &addr, session: session.New(&s.sessions, s.o.Now())}
	m.decoder.MaxFrame = uint32(max(ws.DefaultMaxFrame, s.sessions.MaxPacketSize()))
	m.init(s, m, place)
	m.join(s.mayPark(r))
	if !m.register() {
		m.abandon()
		shuttingDown(w, r)
		s.o.Events.Responded("/mqtt", r.Method, http.StatusServiceUnavailable)
		return
	}
	w.Header().Del("Connection") // boundBody's
	first := ws.AppendResponse(nil, up, w.Header())
	nc, early, err := hijack(w)
	if err == nil && m.served() {
		var more []byte
		if more, err = m.park(nc, parkedSession{m}, first); err == nil {
			go m.readParked(append(early, more...))
			return
		}
	}
	if err != nil {
		m.lost(err)
		return
	}
	nc.SetDeadline(time.Time{})
	m.startAlone(netTransport{nc}, first)
	go m.read(nc, early)
}

// readBuffers are for clients that send much at once.
var readBuffers = sync.Pool{New: func() any { return new([16 << 10]byte) }}

// read serves what the client sends, until it goes.
func (m *mqttConn) read(nc net.Conn, early []byte) {
	m.serving.Store(true)
	m.deaf = !m.received(early)
	var small [256]byte // all that an idle session keeps
	for err := error(nil); err == nil; {
		var n int
		n, err = m.await(nc, small[:])
		m.deaf = m.deaf || !m.received(small[:n])
		if n < len(small) || err != nil {
			continue
		}
		large := readBuffers.Get().(*[16 << 10]byte)
		for n >= len(small) && err == nil {
			n, err = m.await(nc, large[:])
			m.deaf = m.deaf || !m.received(large[:n])
		}
		readBuffers.Put(large)
	}
	m.close()
	m.wait()
}

// await reads, and serves nothing while it waits.
func (m *mqttConn) await(nc net.Conn, b []byte) (n int, err error) {
	m.serving.Store(false)
	defer m.serving.Store(true)
	return nc.Read(b)
}

// received takes bytes from the client; false if nothing more is to be taken.
func (m *mqttConn) received(b []byte) bool {
	for len(b) > 0 {
		ev, n, err := m.decoder.Next(b)
		b = b[n:]
		if bad := (*ws.CloseError)(nil); errors.As(err, &bad) {
			m.hangUp(bad.Code, bad.Text)
			return false
		}
		switch ev.Kind {
		case ws.Data:
			if !m.data(ev.Payload) {
				return false
			}
		case ws.Ping:
			if !m.waitRoom() {
				return false
			}
			m.send(ws.AppendPong(nil, ev.Payload), false)
		case ws.Close:
			m.hangUp(ev.Code, "")
			return false
		}
	}
	return true
}

// hangUp ends the connection by a close frame, without any MQTT packet.
func (m *mqttConn) hangUp(code ws.Code, reason string) {
	m.send(ws.AppendClose(nil, code, reason), true)
	m.step(session.TransportClosed{})
}

// data takes a piece of the stream of packets; false if nothing more is to be
// taken.
func (m *mqttConn) data(b []byte) bool {
	if m.packet != nil {
		*m.packet = append(*m.packet, b...)
		b = *m.packet
	}
	for len(b) > 0 {
		n, err := mqtt.PacketLen(b, m.s.sessions.MaxPacketSize())
		// What cannot become a CONNECT is not waited for.
		stranger := !m.begun && mqtt.TypeOf(b[0]) != mqtt.TypeConnect
		if err != nil || stranger {
			m.step(session.Unreadable{First: b[0], Err: err})
			return false
		}
		if n == 0 || n > len(b) {
			break
		}
		m.begun = true
		if !m.waitRoom() || !m.step(session.Packet{Raw: b[:n], Topics: &m.member, Unacknowledged: m.unacknowledged()}) {
			return false
		}
		b = b[n:]
	}
	switch {
	case len(b) == 0:
		m.packet = nil
	case m.packet != nil:
		*m.packet = append((*m.packet)[:0], b...)
	default:
		begun := append([]byte(nil), b...)
		m.packet = &begun
	}
	return true
}

// outputs are of steps. One is not kept by each connection, and not for long.
var outputs = sync.Pool{New: func() any { return new(session.Output) }}

// step passes e to the session and does what follows from it; false if the
// session has ended. Only the goroutine that reads passes what asks for an
// answer.
func (m *mqttConn) step(e session.Event) bool {
	out := outputs.Get().(*session.Output)
	defer func() {
		out.Reset()
		outputs.Put(out)
	}()
	open := true
	for e != nil {
		out.Reset()
		m.smu.Lock()
		now := m.s.o.Now()
		m.session.Step(e, now, out)
		deadline := m.session.Deadline(now)
		m.transmit(out)
		m.smu.Unlock()
		open = open && out.Close == 0
		if !deadline.IsZero() {
			m.dueBy(deadline)
		}
		e = nil
		for _, effect := range out.Effects {
			if answer := m.carryOut(effect); answer != nil {
				e = answer
			}
		}
		if e, ok := e.(subscribed); ok {
			open = m.step(e.Subscribed) && open
			m.openSubscriptions(e.opening)
			return open
		}
	}
	return open
}

// transmit sends what a step has put out; smu is held, which keeps the order.
func (m *mqttConn) transmit(out *session.Output) {
	var short [64]byte // enough for most answers
	b := short[:0]
	if n := len(out.Packets); n > 0 {
		b = append(ws.AppendHeader(b, ws.OpBinary, n), out.Packets...)
	}
	if out.Close != 0 {
		b = ws.AppendClose(b, ws.Code(out.Close), "")
	}
	if len(b) > 0 {
		m.send(b, out.Close != 0)
	}
}

// carryOut does what the session asks for, and returns the answer, if there is
// to be one.
func (m *mqttConn) carryOut(e session.Effect) session.Event {
	switch e := e.(type) {
	case session.Authorize:
		growStack()
		return m.authorize(e.Token, e.ClientID)
	case session.Claim:
		m.claim(e.ClientHash)
		return session.Claimed{}
	case session.Subscribe:
		growStack()
		return m.subscribe(e.Subscriptions)
	case session.Unsubscribe:
		for _, t := range e.Topics {
			m.member.Unsubscribe(t)
		}
		return session.Unsubscribed{}
	case session.Publish:
		if e.Will && m.s.draining() {
			break // its client may have gone only because this server goes
		}
		return m.publish(e)
	case session.ReportDrop:
		m.s.o.Events.PublishDropped(string(e.Reason), string(e.Topic))
		return m.refuse(e.PacketID, mqtt.NotAuthorized)
	}
	return nil
}

// growStack makes the goroutine's stack large at once. To read a token or the store
// takes 16 KiB of it, and a parked client is served by a new goroutine each time:
// growing in three steps, each of which copies what is deeper, was a tenth of what
// connecting costs.
//
//go:noinline
func growStack() {
	var room [8 << 10]byte
	stackRoom(&room)
}

//go:noinline
func stackRoom(*[8 << 10]byte) {}

// authorize finds out whether the client is let in.
func (m *mqttConn) authorize(token, clientID string) session.Event {
	ctx, cancel := context.WithTimeout(context.Background(), subscribeTimeout)
	defer cancel()
	cred, authErr := m.s.authenticateToken(ctx, token)
	verdict := session.Admitted
	switch {
	case authErr != nil && authErr.kind == authFailed:
		verdict = session.AuthUnavailable
	case authErr != nil:
		verdict = session.BadToken
	case !m.s.registry.setKey(&m.conn, cred.KeyID, m.s.keys.isGone):
		verdict = session.BadToken
	case !m.settle(session.HashClient(cred.Grant, clientID)):
		verdict = session.TooManyConnections
	}
	if verdict != session.Admitted {
		m.s.o.Events.Refused(transportMQTT, refusals[verdict])
		return session.Authorized{Verdict: verdict}
	}
	m.publisher = cred.publisher
	return session.Authorized{Verdict: verdict, Grant: cred.Grant}
}

// refusals are the reasons of Events.Refused.
var refusals = map[session.Verdict]string{
	session.BadToken:           "forbidden",
	session.AuthUnavailable:    "internal-server-error",
	session.TooManyConnections: "too-many-connections",
}

// settle changes the place of a stranger for that of a client: if none is free, for
// that of the session that owner has already, which is about to be taken over.
func (m *mqttConn) settle(owner string) bool {
	if place, ok := m.s.acquire(m.s.conns, *m.stranger); ok {
		m.replace(place)
	} else if old := m.s.registry.client(owner); old == nil || !m.exchange(&old.conn) {
		return false
	}
	m.stranger = nil
	return true
}

// publish begins to publish a message, unless its publisher has exceeded its rate, and
// returns the answer, if there is one now. The goroutine that reads waits until its
// messages are few enough for another one.
func (m *mqttConn) publish(e session.Publish) (answer session.Event) {
	if _, ok := m.s.mayPublish(m.publisher); !ok {
		m.s.o.Events.PublishDropped("rate-limit", string(e.Message.Topic))
		return m.refuse(e.PacketID, mqtt.QuotaExceeded)
	}
	q := m.queue()
	answer = q.add(m, e)
	if !e.Will {
		q.waitRoom(m.s)
	}
	return answer
}

// refuse answers a PUBLISH of QoS 1 that is not published.
func (m *mqttConn) refuse(packetID uint16, reason mqtt.ReasonCode) (answer session.Event) {
	if packetID == 0 {
		return nil
	}
	q := m.queue()
	answer = q.refuse(m, packetID, reason)
	q.waitRoom(m.s)
	return answer
}

// queue returns the publish queue of m.
func (m *mqttConn) queue() *publishQueue {
	q := m.publishes.Load()
	if q == nil { // a will may come at the same time
		m.publishes.CompareAndSwap(nil, new(publishQueue))
		q = m.publishes.Load()
	}
	return q
}

// unacknowledged is the number of PUBLISH packets that have no PUBACK yet.
func (m *mqttConn) unacknowledged() int {
	if q := m.publishes.Load(); q != nil {
		return q.unacknowledged()
	}
	return 0
}

// endWait is how long the end of a session waits until the client's publishes are
// acknowledged, if the session does not end by a fault of the client.
const endWait = time.Second

// endByServer passes e, which ends the session, once the client's publishes at QoS 1 are
// acknowledged. Otherwise the client would publish them again.
func (m *mqttConn) endByServer(e session.Event) {
	if q := m.publishes.Load(); q != nil && q.endAfter(m, e) {
		m.dueBy(m.s.o.Now().Add(endWait))
		return
	}
	m.step(e)
}

func (m *mqttConn) transport() string { return transportMQTT }

func (m *mqttConn) tick(now, wrote time.Time) time.Time {
	next := wrote.Add(m.s.o.WSKeepAlive)
	if !next.After(now) {
		m.sendKeepAlive(emptyFrame)
		next = now.Add(m.s.o.WSKeepAlive)
	}
	e, at := m.overdue(now)
	if e != nil {
		// In a goroutine: a will may have to be stored, and the shard must not wait for
		// that. It calls dueBy.
		m.s.registry.goroutines.Add(1)
		go func() {
			defer m.s.registry.goroutines.Done()
			m.step(e)
		}()
	}
	if !at.IsZero() && at.Before(next) {
		next = at
	}
	return next
}

// emptyFrame keeps proxies from cutting an idle WebSocket, and clients ignore it. Pings
// are not used, because some MQTT clients cannot answer a ping and others hang up.
var emptyFrame = ws.AppendHeader(nil, ws.OpBinary, 0)

// overdue returns the event that is due at now, or nil and the time of the next check,
// which is zero for never.
func (m *mqttConn) overdue(now time.Time) (session.Event, time.Time) {
	m.smu.Lock()
	at := m.session.Deadline(now)
	silent, connected := m.session.TimedOut(now)
	m.smu.Unlock()
	switch {
	case silent && m.mayHaveSpoken(connected):
		m.patience++
		return nil, now.Add(lookAgain)
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
	// lookAgain is the time until a client that seems silent is checked again.
	lookAgain = 100 * time.Millisecond
	// keepAlivePatience and connectPatience are the numbers of such checks before a
	// client that keeps sending bytes, but no packet, counts as silent. A connected
	// client may have to wait as long as the backplane does.
	keepAlivePatience = (backplaneWait + time.Second) / lookAgain
	connectPatience   = time.Second / lookAgain
)

// mayHaveSpoken reports whether a packet may be among the client's bytes that have not
// been read, or that are being served. After a pause of this process, or while the
// client's messages wait for the backplane, their delay is not the client's fault.
func (m *mqttConn) mayHaveSpoken(connected bool) bool {
	most := keepAlivePatience
	if !connected {
		most = connectPatience
		if m.isFull() { // it sends more than its CONNECT, and does not read
			return false
		}
	}
	return time.Duration(m.patience) < most && (m.serving.Load() || m.out().Unread())
}

func (m *mqttConn) end(why endReason) {
	switch why {
	case endRevoked:
		m.step(session.Revoked{})
	case endDrain:
		m.endByServer(session.Draining{})
	}
}

func (m *mqttConn) gone() {
	m.step(session.TransportClosed{})
	m.unclaim()
}
