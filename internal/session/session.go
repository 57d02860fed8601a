// Package session implements the server's side of one MQTT 5.0 connection as a state
// machine. [Session.Step] takes one event and returns packets to send and effects to
// carry out. A Session has no goroutine, clock, socket or log: its driver has them.
//
// The driver must
//
//   - pass every whole control packet from the client as a [Packet], in order;
//   - carry out each [Effect], in order. It answers [Authorize], [Claim], [Subscribe] and
//     [Unsubscribe] with [Authorized], [Claimed], [Subscribed] and [Unsubscribed]. At most
//     one of them is pending at a time. Until it has been answered, the driver must not
//     pass a Packet. It may pass all other events at any time;
//   - answer each [Publish] and [ReportDrop] that has a packet identifier with
//     [Published], in the order of these effects. It may do so at any time;
//   - pass [Tick] when [Session.Deadline] has come;
//   - after a Step that has set [Output.Close], send the packets, close the connection
//     and pass no more events. Further events are ignored.
//
// Messages to the client do not go through Step. The driver encodes them, and must omit
// and count those that are longer than [Session.MaxPacketSize].
//
// Section numbers in comments are those of the OASIS standard "MQTT Version 5.0".
package session

import (
	"errors"
	"time"

	"pubsub"
	"pubsub/internal/mqtt"
)

// Options are the options of all sessions of a server. They must not change while a session
// uses them.
type Options struct {
	// MaxMessageSize is the maximum length of a message, in bytes. It must be at most
	// [mqtt.MaxPacketLen] - 256.
	MaxMessageSize int
	// HandshakeTimeout is how long the client may take to send its CONNECT. 0 means no
	// limit.
	HandshakeTimeout time.Duration
	// MaxKeepAlive is the maximum keep-alive in seconds. It replaces the keep-alive of a
	// client that asks for more, or for none. 0 means no limit.
	MaxKeepAlive uint16
	// Epoch must not be after any time that is passed to a session. Sessions store times
	// relative to it.
	Epoch time.Time
	// NewClientID returns a unique identifier for a client that sends none.
	NewClientID func() string
}

// packetOverhead is how much longer a packet may be than its message, in bytes.
const packetOverhead = 256

// MaxPacketSize returns the maximum length of a packet from the client in bytes, fixed
// header included: MaxMessageSize + 256. It is the limit for [mqtt.PacketLen].
func (o *Options) MaxPacketSize() int { return o.MaxMessageSize + packetOverhead }

type state uint8

const (
	awaitingConnect state = iota // no packet has arrived; the first must be CONNECT
	authorizing                  // Authorize is pending
	claiming                     // Claim is pending
	open                         // connected
	subscribing                  // connected, Subscribe is pending
	unsubscribing                // connected, Unsubscribe is pending
	closed
)

// connected reports whether a successful CONNACK was sent and the session has not ended.
func (s state) connected() bool { return s == open || s == subscribing || s == unsubscribing }

// Session is the state of one MQTT connection. Its methods must not be called concurrently.
// It is small, because there may be millions, and has pointers to the parts that only some
// sessions need.
type Session struct {
	opts *Options

	clientHash string          // see ClientHash; empty before Authorized
	grant      *pubsub.Grant   // nil before Authorized
	will       *pubsub.Message // nil if there is none
	pending    *pendingConnect // not nil between CONNECT and CONNACK
	request    *request        // not nil while subscribing or unsubscribing
	lastPacket time.Duration   // time of the last packet, or else of the connection, since opts.Epoch

	maxPacket        uint32 // see MaxPacketSize
	keepAlive        uint16 // in seconds; 0 means none
	state            state
	hasSessionExpiry bool // CONNECT asked for a Session Expiry Interval above 0
}

// New returns the session of a connection accepted at the time now. The driver usually
// keeps it in a field of its connection.
func New(o *Options, now time.Time) Session { return Session{opts: o, lastPacket: now.Sub(o.Epoch)} }

// recordPacket restarts the keep-alive: a packet has arrived, or can arrive again.
func (s *Session) recordPacket(now time.Time) { s.lastPacket = now.Sub(s.opts.Epoch) }

// lastPacketTime returns the time of the last recordPacket.
func (s *Session) lastPacketTime() time.Time { return s.opts.Epoch.Add(s.lastPacket) }

// ClientHash returns the [HashClient] of the client, which is also in [Claim] and the Sender
// of its messages. It is empty before Claim.
func (s *Session) ClientHash() string { return s.clientHash }

// MaxPacketSize returns the maximum length of a packet to the client in bytes, as set by
// its CONNECT (section 3.1.2.11.4). 0 means no limit.
func (s *Session) MaxPacketSize() int { return int(s.maxPacket) }

// Deadline returns the time at which the next [Tick] is due. The zero time means never. It
// may change with every Step. Because the token expires by the wall clock, Deadline must
// also be called again after a step of that clock.
func (s *Session) Deadline(now time.Time) time.Time {
	var d time.Time
	switch s.state {
	case closed:
		return d
	case awaitingConnect:
		if s.opts.HandshakeTimeout > 0 {
			d = s.lastPacketTime().Add(s.opts.HandshakeTimeout)
		}
	case open:
		// In the other states no packet is read, so silence says nothing about the
		// client.
		if s.keepAlive > 0 {
			d = s.lastPacketTime().Add(time.Duration(s.keepAlive) * time.Second * 3 / 2)
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

// Step handles an event that happens at the time now, and adds the results to out.
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
	case awaitingConnect:
		if t != mqtt.TypeConnect {
			s.hangUp(CloseProtocolError, now, out)
			return
		}
	case open:
		if s.expired(now) {
			s.expire(now, out)
			return
		}
		if t == mqtt.TypeConnect { // even if it is malformed (section 3.1)
			s.fail(mqtt.ProtocolError, now, out)
			return
		}
	default: // the driver must not pass a packet now
		s.fail(mqtt.ImplementationSpecificError, now, out)
		return
	}
	s.recordPacket(now)
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
		s.connect(p, now, out)
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

// reasonOf returns the reason code that answers an error of package mqtt.
func reasonOf(err error) mqtt.ReasonCode {
	if e := (*mqtt.Error)(nil); errors.As(err, &e) {
		return e.Reason
	}
	return mqtt.MalformedPacket
}

func (s *Session) unreadable(e Unreadable, now time.Time, out *Output) {
	switch {
	case s.state == awaitingConnect && mqtt.TypeOf(e.First) != mqtt.TypeConnect:
		s.hangUp(CloseProtocolError, now, out)
	case s.state == open && mqtt.TypeOf(e.First) == mqtt.TypeConnect:
		s.fail(mqtt.ProtocolError, now, out)
	default:
		s.fail(reasonOf(e.Err), now, out)
	}
}

// disconnect handles a DISCONNECT (section 3.14).
func (s *Session) disconnect(d *mqtt.Disconnect, now time.Time, out *Output) {
	if d.SessionExpiry > 0 && !s.hasSessionExpiry { // section 3.14.2.2.2
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
	case s.state == awaitingConnect:
		s.hangUp(CloseProtocolError, now, out)
	case s.expired(now):
		s.expire(now, out)
	default:
		s.fail(mqtt.KeepAliveTimeout, now, out)
	}
}

// expired reports whether the token has expired.
func (s *Session) expired(now time.Time) bool {
	return s.grant != nil && !s.grant.Expires.IsZero() && !now.Before(s.grant.Expires)
}

// TimedOut reports whether a Tick at the time now would end the session because the client
// has been silent. The driver should then look for unread bytes before it passes Tick.
// connected reports whether CONNACK has been sent.
func (s *Session) TimedOut(now time.Time) (timedOut, connected bool) {
	d := s.Deadline(now)
	return !d.IsZero() && !now.Before(d) && !s.expired(now), s.state.connected()
}

func (s *Session) expire(now time.Time, out *Output) { s.fail(mqtt.NotAuthorized, now, out) }

// takenOver ends the session because another connection has claimed the client.
func (s *Session) takenOver(now time.Time, out *Output) {
	switch {
	case s.clientHash == "": // not claimed yet
	case s.state.connected():
		s.fail(mqtt.SessionTakenOver, now, out)
	default: // CONNACK does not have that reason code (section 3.2.2.2)
		s.fail(mqtt.UnspecifiedError, now, out)
	}
}

// revoked ends the session without publishing the will, because the token is not valid any
// more.
func (s *Session) revoked(now time.Time, out *Output) {
	if s.grant != nil {
		s.will = nil
		s.fail(mqtt.NotAuthorized, now, out)
	}
}

// drain ends the session because the server shuts down. It does not publish the will,
// because the client is not at fault.
func (s *Session) drain(now time.Time, out *Output) {
	s.will = nil
	switch {
	case s.state == awaitingConnect:
		s.hangUp(CloseGoingAway, now, out)
	case s.state.connected():
		s.fail(mqtt.ServerShuttingDown, now, out)
	default:
		s.fail(mqtt.ServerUnavailable, now, out) // the closest reason code of CONNACK
	}
}

// send adds p to the output and reports true, unless p is longer than the client accepts.
func (s *Session) send(p mqtt.Packet, out *Output) bool {
	before := len(out.Packets)
	out.Packets = p.Append(out.Packets)
	if s.maxPacket != 0 && uint64(len(out.Packets)-before) > uint64(s.maxPacket) {
		out.Packets = out.Packets[:before]
		return false
	}
	return true
}

// reply sends a packet that the client waits for. If it is longer than the client's Maximum
// Packet Size (section 3.1.2.11.4), the session ends, because the client would wait for
// ever.
func (s *Session) reply(p mqtt.Packet, now time.Time, out *Output) {
	if !s.send(p, out) {
		s.fail(mqtt.PacketTooLarge, now, out)
	}
}

// fail ends the session and sends the reason to the client: in CONNACK before it is
// connected, otherwise in DISCONNECT (section 4.13).
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

// hangUp ends the session without a packet.
func (s *Session) hangUp(code CloseCode, now time.Time, out *Output) {
	out.Close = code
	s.end(now, out)
}

// end ends the session. It publishes the will, if there still is one.
func (s *Session) end(now time.Time, out *Output) {
	if s.state.connected() && s.will != nil && !s.expired(now) {
		s.publishMessage(Publish{Message: *s.will, Will: true}, now, out)
	}
	*s = Session{opts: s.opts, clientHash: s.clientHash, state: closed}
}
