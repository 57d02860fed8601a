// Package session is the server's side of one MQTT 5.0 connection as a function:
// [Session.Step] takes one event and says what to send and what to do. There is
// no goroutine, clock, socket or log in it; a driver has those. The driver
//
//   - passes every whole control packet as a [Packet], in order;
//   - carries out each [Effect] and answers those that ask for it ([Authorize],
//     [Claim], [Subscribe], [Unsubscribe]) with the event that they name. At most
//     one is unanswered at a time, and until its answer has been passed, no
//     further Packet is: the driver leaves them unread. All other events may come
//     at any time;
//   - answers each [Publish] and [ReportDrop] that has a packet identifier with
//     [Published], in their order, whatever else is unanswered;
//   - passes [Tick] when [Session.Deadline] has come;
//   - after a Step that set Output.Close sends what it was given, closes and
//     passes nothing more (what is passed is ignored).
//
// Messages to the client do not go through Step: the driver encodes them and must
// leave out, and count, those above [Session.MaxPacketSize].
//
// Section numbers in comments are those of the OASIS standard "MQTT Version 5.0".
package session

import (
	"errors"
	"time"

	"pubsub"
	"pubsub/internal/mqtt"
)

// Options are what all sessions of a server have in common. They must not change
// while a session uses them.
type Options struct {
	// MaxMessageSize is how long a message may be, in bytes; at most
	// [mqtt.MaxPacketLen] - 256.
	MaxMessageSize int
	// HandshakeTimeout is how long the client may take until its CONNECT is
	// there; 0 is for ever.
	HandshakeTimeout time.Duration
	// MaxKeepAlive is the longest keep-alive that is accepted, in seconds; a client
	// that asks for more, or for none, is told this one. 0 accepts any.
	MaxKeepAlive uint16
	// Epoch is no later than any time that is passed: sessions keep theirs as the
	// distance from it.
	Epoch time.Time
	// NewClientID returns an identifier, unlike all others, for a client that
	// sent none.
	NewClientID func() string
}

// packetOverhead is what a packet may have beyond its message.
const packetOverhead = 256

// MaxPacketSize is how long a packet from the client may be, fixed header
// included, in bytes: the limit for [mqtt.PacketLen]. It is MaxMessageSize + 256.
func (o *Options) MaxPacketSize() int { return o.MaxMessageSize + packetOverhead }

// state is where a session is in its life.
type state uint8

const (
	expecting     state = iota // nothing came yet; CONNECT must
	authorizing                // Authorize is unanswered
	claiming                   // Claim is unanswered
	open                       // connected
	subscribing                // connected, Subscribe is unanswered
	unsubscribing              // connected, Unsubscribe is unanswered
	closed
)

// connected says that a successful CONNACK was sent and the connection goes on.
func (s state) connected() bool { return s == open || s == subscribing || s == unsubscribing }

// Session is one MQTT connection. Its methods must not be called at the same
// time. There may be millions: it is small, and what only some need is behind
// a pointer.
type Session struct {
	opts *Options

	clientHash string          // see ClientHash; "" before the grant is there
	grant      *pubsub.Grant   // nil before it is there
	will       *pubsub.Message // nil if there is none
	connect    *connecting     // until CONNACK
	request    *request        // while subscribing or unsubscribing
	heard      time.Duration   // from opts.Began until the last packet came; at first, until the connection came

	maxPacket  uint32 // see MaxPacketSize
	keepAlive  uint16 // seconds; 0 is none
	state      state
	mayOutlive bool // CONNECT asked for a Session Expiry Interval above 0
}

// New returns the session of a connection that came at now, to lie in what its driver
// has for the connection.
func New(o *Options, now time.Time) Session { return Session{opts: o, heard: now.Sub(o.Epoch)} }

// hear notes that a packet came, or that one may come again.
func (s *Session) hear(now time.Time) { s.heard = now.Sub(s.opts.Epoch) }

// lastHeard is what hear has noted.
func (s *Session) lastHeard() time.Time { return s.opts.Epoch.Add(s.heard) }

// ClientHash returns the name under which the client is known among the clients of all
// owners: the same as in [Claim] and in the Sender of its messages. It is empty
// before Claim.
func (s *Session) ClientHash() string { return s.clientHash }

// MaxPacketSize returns how long a packet to the client may be, in bytes, as its
// CONNECT said (section 3.1.2.11.4); 0 is no limit.
func (s *Session) MaxPacketSize() int { return int(s.maxPacket) }

// Deadline returns when the next [Tick] is due, as seen at now; zero means never. It may
// change with every Step. The token expires by the wall clock, so Deadline must be called
// again after that clock has jumped.
func (s *Session) Deadline(now time.Time) time.Time {
	var d time.Time
	switch s.state {
	case closed:
		return d
	case expecting:
		if s.opts.HandshakeTimeout > 0 {
			d = s.lastHeard().Add(s.opts.HandshakeTimeout)
		}
	case open:
		// While an answer is awaited no packet is read, so that silence then says
		// nothing about the client.
		if s.keepAlive > 0 {
			d = s.lastHeard().Add(time.Duration(s.keepAlive) * time.Second * 3 / 2)
		}
	}
	if s.grant != nil && !s.grant.Expires.IsZero() {
		// Expires has no monotonic reading, so Sub compares wall clocks.
		if at := now.Add(s.grant.Expires.Sub(now)); d.IsZero() || at.Before(d) {
			d = at
		}
	}
	return d
}

// Step takes one event at the time now and adds to out what follows from it.
func (s *Session) Step(e Event, now time.Time, out *Output) {
	if s.state == closed {
		return
	}
	switch e := e.(type) {
	case Packet:
		s.packet(e, now, out)
	case Unreadable:
		s.unreadable(e, now, out)
	case Authorized:
		s.authorized(e, now, out)
	case Claimed:
		s.claimed(now, out)
	case Subscribed:
		s.subscribed(e.Errs, now, out)
	case Unsubscribed:
		s.unsubscribed(now, out)
	case Published:
		s.published(e, now, out)
	case Tick:
		s.tick(now, out)
	case TakenOver:
		s.takenOver(now, out)
	case Revoked:
		s.revoked(now, out)
	case Draining:
		s.drain(now, out)
	case TransportClosed:
		s.end(now, out)
	}
}

func (s *Session) packet(e Packet, now time.Time, out *Output) {
	raw := e.Raw
	var t mqtt.Type
	if len(raw) > 0 {
		t = mqtt.TypeOf(raw[0])
	}
	switch s.state {
	case expecting:
		if t != mqtt.TypeConnect {
			s.hangUp(CloseProtocolError, now, out)
			return
		}
	case open:
		if s.expired(now) {
			s.expire(now, out)
			return
		}
		if t == mqtt.TypeConnect { // whatever is in it (section 3.1)
			s.fail(mqtt.ProtocolError, now, out)
			return
		}
	default: // The driver should have waited.
		s.fail(mqtt.ImplementationSpecificError, now, out)
		return
	}
	s.hear(now)
	p, n, err := mqtt.Parse(raw)
	if err == nil && n != len(raw) {
		err = mqtt.ErrIncomplete
	}
	if err != nil {
		s.fail(reasonOf(err), now, out)
		return
	}
	switch p := p.(type) {
	case *mqtt.Connect:
		s.connectPacket(p, now, out)
	case *mqtt.Publish:
		s.publish(p, e.Unacknowledged, now, out)
	case *mqtt.Subscribe:
		s.subscribe(p, e.Topics, now, out)
	case *mqtt.Unsubscribe:
		s.unsubscribe(p, e.Topics, now, out)
	case *mqtt.Pingreq:
		s.reply(&mqtt.Pingresp{}, now, out)
	case *mqtt.Disconnect:
		s.disconnect(p, now, out)
	default:
		// These are packets that only servers send, AUTH without an authentication method
		// (section 4.12), and acknowledgements, which are unexpected because every
		// subscription has QoS 0.
		s.fail(mqtt.ProtocolError, now, out)
	}
}

// reasonOf returns what to answer to an error of the codec.
func reasonOf(err error) mqtt.ReasonCode {
	if e := (*mqtt.Error)(nil); errors.As(err, &e) {
		return e.Reason
	}
	return mqtt.MalformedPacket
}

func (s *Session) unreadable(e Unreadable, now time.Time, out *Output) {
	switch {
	case s.state == expecting && mqtt.TypeOf(e.First) != mqtt.TypeConnect:
		s.hangUp(CloseProtocolError, now, out)
	case s.state == open && mqtt.TypeOf(e.First) == mqtt.TypeConnect:
		s.fail(mqtt.ProtocolError, now, out)
	default:
		s.fail(reasonOf(e.Err), now, out)
	}
}

// disconnect takes a DISCONNECT of the client (section 3.14).
func (s *Session) disconnect(d *mqtt.Disconnect, now time.Time, out *Output) {
	if d.SessionExpiry > 0 && !s.mayOutlive { // section 3.14.2.2.2: no valid DISCONNECT
		s.fail(mqtt.ProtocolError, now, out)
		return
	}
	if d.Reason == mqtt.Success {
		s.will = nil
	}
	s.hangUp(CloseNormal, now, out)
}

func (s *Session) tick(now time.Time, out *Output) {
	switch d := s.Deadline(now); {
	case d.IsZero() || now.Before(d):
	case s.state == expecting:
		s.hangUp(CloseProtocolError, now, out)
	case s.expired(now):
		s.expire(now, out)
	default:
		s.fail(mqtt.KeepAliveTimeout, now, out)
	}
}

// expired reports whether the token has been valid for the last time.
func (s *Session) expired(now time.Time) bool {
	return s.grant != nil && !s.grant.Expires.IsZero() && !now.Before(s.grant.Expires)
}

// TimedOut reports whether a Tick at now would end the session because the client has been
// silent, which unread bytes could disprove. connected reports whether the client has
// sent its CONNECT.
func (s *Session) TimedOut(now time.Time) (silent, connected bool) {
	d := s.Deadline(now)
	return !d.IsZero() && !now.Before(d) && !s.expired(now), s.state.connected()
}

func (s *Session) expire(now time.Time, out *Output) { s.fail(mqtt.NotAuthorized, now, out) }

// takenOver ends the connection because the client, or one that calls itself so,
// has another.
func (s *Session) takenOver(now time.Time, out *Output) {
	switch {
	case s.clientHash == "": // it has no name yet
	case s.state.connected():
		s.fail(mqtt.SessionTakenOver, now, out)
	default: // a CONNACK cannot say so (section 3.2.2.2)
		s.fail(mqtt.UnspecifiedError, now, out)
	}
}

// revoked ends the connection because the token counts no more, for the will
// either.
func (s *Session) revoked(now time.Time, out *Output) {
	if s.grant != nil {
		s.will = nil
		s.fail(mqtt.NotAuthorized, now, out)
	}
}

// drain ends the connection because the server goes away: no fault of the
// client's, so there is no will.
func (s *Session) drain(now time.Time, out *Output) {
	s.will = nil
	switch {
	case s.state == expecting:
		s.hangUp(CloseGoingAway, now, out)
	case s.state.connected():
		s.fail(mqtt.ServerShuttingDown, now, out)
	default:
		s.fail(mqtt.ServerUnavailable, now, out) // of CONNACK's reasons the nearest
	}
}

// send adds p to what is sent, unless the client would not take it.
func (s *Session) send(p mqtt.Packet, out *Output) bool {
	before := len(out.Packets)
	out.Packets = p.Append(out.Packets)
	if s.maxPacket != 0 && uint64(len(out.Packets)-before) > uint64(s.maxPacket) {
		out.Packets = out.Packets[:before]
		return false
	}
	return true
}

// reply sends a packet that the client waits for. To leave it out silently would
// leave the client waiting, so the connection ends if it is above the client's
// Maximum Packet Size (section 3.1.2.11.4).
func (s *Session) reply(p mqtt.Packet, now time.Time, out *Output) {
	if !s.send(p, out) {
		s.fail(mqtt.PacketTooLarge, now, out)
	}
}

// fail ends the connection with the packet that tells the client why: CONNACK
// before it is connected, else DISCONNECT (section 4.13).
func (s *Session) fail(reason mqtt.ReasonCode, now time.Time, out *Output) {
	if s.state.connected() {
		s.send(&mqtt.Disconnect{Reason: reason}, out)
	} else {
		s.send(&mqtt.Connack{Reason: reason}, out)
	}
	code := CloseNormal
	if reason == mqtt.MalformedPacket || reason == mqtt.ProtocolError {
		code = CloseProtocolError
	}
	s.hangUp(code, now, out)
}

// hangUp ends the connection without a packet.
func (s *Session) hangUp(code CloseCode, now time.Time, out *Output) {
	out.Close = code
	s.end(now, out)
}

// end is the end of every session: the will, if there is one left, and nothing
// after it.
func (s *Session) end(now time.Time, out *Output) {
	if s.state.connected() && s.will != nil && !s.expired(now) {
		s.deliver(Publish{Message: *s.will, Will: true}, now, out)
	}
	*s = Session{opts: s.opts, clientHash: s.clientHash, state: closed}
}
