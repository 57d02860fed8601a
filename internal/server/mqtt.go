package server

import (
	"context"
	"crypto/rand"
	"errors"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"

	"pubsub/internal/conn"
	"pubsub/internal/mqtt"
	"pubsub/internal/session"
	"pubsub/internal/ws"
)

// mqttConn is an MQTT session. It does not know how its packets are carried: the Protocol
// that it is part of is also a [framing].
type mqttConn struct {
	conn.Conn

	s *Server // immutable

	// owned by the goroutine that reads
	partial     *[]byte     // the part of a packet that has arrived so far, or nil
	pending     *netip.Addr // the client's address, until its token has been read
	gotPacket   bool        // the first packet has arrived
	ignoreInput bool        // nothing more is taken from the client

	patience uint8 // owned by the shard's goroutine: how often Tick has spared a silent client

	// set by the goroutine that reads, before the first subscription
	maxPacket uint32 // to the client; 0 is no limit
	publisher publisher

	publishes atomic.Pointer[publishQueue] // nil before the first

	sessionMu sync.Mutex
	// guarded by sessionMu
	session session.Session
	claimed claim
}

// newClientID returns an identifier for a client that did not send one.
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
	// WebSockets whose token has not been read yet are counted separately, so that they
	// cannot take the slots of admitted clients.
	slot, ok := s.acquire(s.pending, addr)
	if !ok {
		s.o.Events.Refused(transportMQTT, "too-many-connections")
		retryLater(w, "Too many connections", 5, 15)
		s.o.Events.Responded("/mqtt", r.Method, http.StatusServiceUnavailable)
		return
	}
	c := s.newWebSocketConn(addr)
	c.Init(s.registry, c, slot, s.mayPark(r))
	if !c.Register() {
		c.Close()
		shuttingDown(w, r)
		s.o.Events.Responded("/mqtt", r.Method, http.StatusServiceUnavailable)
		return
	}
	w.Header().Del("Connection") // set by boundBody
	first := ws.AppendResponse(nil, up, w.Header())
	nc, early, err := hijack(w)
	if err == nil {
		err = c.serve(nc, early, first)
	}
	if err != nil {
		c.HijackFailed(err)
	}
}

// stepOutput is the memory of a step.
type stepOutput struct {
	session.Output
	framed []byte // of transmit
}

// outputs pools the memory of steps, so that a connection does not keep any.
var outputs = sync.Pool{New: func() any { return &stepOutput{framed: make([]byte, 0, 128)} }}

// step passes e to the session, then carries out the effects and passes their answers. It
// reports whether the session is open. Only the goroutine that reads passes an event whose
// effects have answers.
func (m *mqttConn) step(e session.Event) (open bool) {
	out := outputs.Get().(*stepOutput)
	defer func() {
		out.Reset()
		outputs.Put(out)
	}()
	open = true
	for e != nil {
		out.Reset()
		m.sessionMu.Lock()
		now := m.s.o.Now()
		m.session.Step(e, now, &out.Output)
		deadline := m.session.Deadline(now)
		m.transmit(out)
		m.sessionMu.Unlock()
		open = open && out.Close == 0
		if !deadline.IsZero() {
			m.DueBy(deadline)
		}
		e = nil
		for _, effect := range out.Effects {
			if answer := m.carryOut(effect); answer != nil {
				e = answer
			}
		}
		if e, ok := e.(subscribed); ok {
			open = m.step(e.Subscribed) && open
			m.resume(e.opening)
			return open
		}
	}
	return open
}

// transmit sends the output of a step; sessionMu is held, which keeps the order.
func (m *mqttConn) transmit(out *stepOutput) {
	n := len(out.Packets)
	if n == 0 && out.Close == 0 {
		return
	}
	f, b := m.framing(), out.framed[:0]
	if n > 0 {
		b = append(f.appendHeader(b, n), out.Packets...)
	}
	if out.Close != 0 {
		m.SendLast(f.appendClose(b, out.Close))
	} else {
		m.Send(b)
	}
}

// carryOut carries out an effect and returns its answer, or nil if it has none now.
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
			m.Subscriber.Unsubscribe(t)
		}
		return session.Unsubscribed{}
	case session.Publish:
		if e.Will && m.s.registry.Draining() {
			break // the client may have left only because the node drains
		}
		return m.publish(e)
	case session.ReportDrop:
		m.s.o.Events.PublishDropped(string(e.Reason), string(e.Topic))
		return m.rejectPublish(e.PacketID, mqtt.NotAuthorized)
	}
	return nil
}

// growStack makes the goroutine's stack large at once. Reading a token or the store takes
// 16 KiB of it, and each input of a parked client is served by a new goroutine. Growing in
// three steps, each of which copies the stack, was a tenth of the cost of connecting.
//
//go:noinline
func growStack() {
	var room [8 << 10]byte
	stackRoom(&room)
}

//go:noinline
func stackRoom(*[8 << 10]byte) {}

// authorize decides whether the client is admitted.
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
	case !m.s.setKey(&m.Conn, cred.KeyID):
		verdict = session.BadToken
	case !m.admit(session.HashClient(cred.Grant, clientID)):
		verdict = session.TooManyConnections
	}
	if verdict != session.Admitted {
		m.s.o.Events.Refused(transportMQTT, refusals[verdict])
		return session.Authorized{Verdict: verdict}
	}
	m.publisher = cred.publisher
	return session.Authorized{Verdict: verdict, Grant: cred.Grant}
}

// refusals are the reasons for Events.Refused.
var refusals = map[session.Verdict]string{
	session.BadToken:           "forbidden",
	session.AuthUnavailable:    "internal-server-error",
	session.TooManyConnections: "too-many-connections",
}

// admit exchanges the slot of a pending WebSocket for that of a session, and reports whether
// it could. If no slot is free, m swaps slots with the session that client has on this node,
// because m is about to take it over.
func (m *mqttConn) admit(client string) bool {
	if slot, ok := m.s.acquire(m.s.conns, *m.pending); ok {
		m.SetSlot(slot)
	} else if old := m.s.clients.get(client); old == nil || !m.SwapSlots(&old.Conn) {
		return false
	}
	m.pending = nil
	return true
}
