package session

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"time"

	"pubsub"
	"pubsub/internal/mqtt"
)

// connecting is what a session remembers of CONNECT only until CONNACK.
type connecting struct {
	clientID string
	assigned bool // the server chose clientID
	lowered  bool // the server chose the keep-alive
}

// maximumQoS is the Maximum QoS of every CONNACK (section 3.2.2.3.4).
const maximumQoS = 1

// maxClientID is the length of the longest client identifier that is accepted, in
// bytes. Identifiers live as long as their sessions.
const maxClientID = 1024

// connectPacket takes the CONNECT. Checks run in this order: version,
// authentication method, client identifier, will (QoS, topic, size), password,
// token, limits.
func (s *Session) connectPacket(c *mqtt.Connect, now time.Time, out *Output) {
	if c.Version < 5 {
		out.Packets = mqtt.AppendVersionRefusal(out.Packets)
		s.hangUp(CloseNormal, now, out)
		return
	}
	if c.MaximumPacketSize < mqtt.MaxPacketLen { // else it limits nothing
		s.maxPacket = c.MaximumPacketSize
	}
	if reason := s.refusal(c); reason != mqtt.Success {
		s.fail(reason, now, out)
		return
	}
	s.mayOutlive = c.SessionExpiry > 0
	s.keepAlive = c.KeepAlive
	s.connect = &connecting{clientID: c.ClientID}
	if most := s.opts.MaxKeepAlive; most > 0 && (c.KeepAlive == 0 || c.KeepAlive > most) {
		s.keepAlive, s.connect.lowered = most, true
	}
	if c.ClientID == "" {
		s.connect.clientID, s.connect.assigned = s.opts.NewClientID(), true
	}
	if w := c.Will; w != nil {
		s.will = &pubsub.Message{
			Topic: pubsub.Topic(w.Topic), Data: bytes.Clone(w.Payload), Retain: w.Retain,
			HasTTL: w.HasExpiry, TTL: w.Expiry, Properties: bytes.Clone(w.Properties),
		}
	}
	s.state = authorizing
	out.Effects = append(out.Effects, Authorize{Token: string(c.Password), ClientID: s.connect.clientID})
}

// refusal returns what is wrong with a CONNECT of version 5 or above before its
// token is looked at. That the will's topic may not be written is no reason: it
// counts when the will is published.
func (s *Session) refusal(c *mqtt.Connect) mqtt.ReasonCode {
	switch {
	case c.Version > 5:
		return mqtt.UnsupportedProtocolVersion
	case c.HasAuthMethod:
		return mqtt.BadAuthenticationMethod
	case len(c.ClientID) > maxClientID:
		return mqtt.ClientIdentifierNotValid
	}
	if w := c.Will; w != nil {
		if w.QoS > maximumQoS {
			return mqtt.QoSNotSupported
		}
		if _, err := pubsub.ParseTopic(w.Topic); err != nil {
			return mqtt.TopicNameInvalid
		}
		if len(w.Payload) > s.opts.MaxMessageSize {
			return mqtt.PacketTooLarge
		}
	}
	if len(c.Password) == 0 {
		return mqtt.NotAuthorized
	}
	return mqtt.Success
}

func (s *Session) authorized(e Authorized, now time.Time, out *Output) {
	if s.state != authorizing {
		return
	}
	switch {
	case e.Verdict == AuthUnavailable:
		s.fail(mqtt.ServerUnavailable, now, out)
		return
	case e.Verdict == TooManyConnections:
		s.fail(mqtt.QuotaExceeded, now, out)
		return
	case e.Verdict != Admitted || e.Grant == nil:
		s.fail(mqtt.NotAuthorized, now, out)
		return
	}
	s.grant = e.Grant
	if s.expired(now) {
		s.expire(now, out)
		return
	}
	s.clientHash = HashClient(s.grant, s.connect.clientID)
	s.state = claiming
	out.Effects = append(out.Effects, Claim{ClientHash: s.clientHash})
}

// ClientHashBytes is the length of a hash that HashClient returns.
const ClientHashBytes = 16

// HashClient returns a hash that identifies a client among the clients of all owners. Key
// and subject identify an owner; the admin token is another one. The hash travels with
// each message and each claim, so it is short whatever the client identifier is.
func HashClient(g *pubsub.Grant, clientID string) string {
	var b []byte
	if g.Admin {
		b = append(b, 'a')
	} else { // either may contain any bytes, so their lengths come first
		b = append(b, 'k')
		b = append(binary.AppendUvarint(b, uint64(len(g.KeyID))), g.KeyID...)
		b = append(binary.AppendUvarint(b, uint64(len(g.Subject))), g.Subject...)
	}
	sum := sha256.Sum256(append(b, clientID...))
	return string(sum[:ClientHashBytes])
}

func (s *Session) claimed(now time.Time, out *Output) {
	if s.state != claiming {
		return
	}
	if s.expired(now) {
		s.expire(now, out)
		return
	}
	ack := mqtt.Connack{
		HasSessionExpiry:   true, // 0: the session ends with the connection
		HasMaximumQoS:      true,
		MaximumQoS:         maximumQoS,
		ReceiveMaximum:     ReceiveMaximum,
		MaximumPacketSize:  uint32(s.opts.MaxPacketSize()),
		NoWildcards:        true,
		NoShared:           true,
		HasServerKeepAlive: s.connect.lowered,
	}
	if s.connect.lowered {
		ack.ServerKeepAlive = s.keepAlive
	}
	if s.connect.assigned {
		ack.AssignedClientID = s.connect.clientID
	}
	if !s.send(&ack, out) {
		s.fail(mqtt.PacketTooLarge, now, out)
		return
	}
	s.connect = nil
	s.hear(now)
	s.state = open
}
