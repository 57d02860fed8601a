package session

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"time"

	"pubsub"
	"pubsub/internal/mqtt"
)

// pendingConnect is the part of a CONNECT that is needed only until CONNACK.
type pendingConnect struct {
	clientID string
	assigned bool // clientID was assigned by the server
	lowered  bool // the server has lowered the keep-alive
}

// maximumQoS is the Maximum QoS of every CONNACK (section 3.2.2.3.4).
const maximumQoS = 1

// maxClientID is the maximum length of a client identifier, in bytes. It is limited because
// identifiers stay in memory as long as their sessions.
const maxClientID = 1024

// connect handles the CONNECT. The checks have this order: version, authentication method,
// client identifier, will (QoS, topic, size), password, token, limits.
func (s *Session) connect(c *mqtt.Connect, now time.Time, out *Output) {
	if c.Version < 5 {
		out.Packets = mqtt.AppendVersionRefusal(out.Packets)
		s.hangUp(CloseNormal, now, out)
		return
	}
	if c.MaximumPacketSize < mqtt.MaxPacketLen { // otherwise it limits nothing
		s.maxPacket = c.MaximumPacketSize
	}
	if reason := s.checkConnect(c); reason != mqtt.Success {
		s.fail(reason, now, out)
		return
	}
	s.hasSessionExpiry = c.SessionExpiry > 0
	s.keepAlive = c.KeepAlive
	s.pending = &pendingConnect{clientID: c.ClientID}
	if limit := s.opts.MaxKeepAlive; limit > 0 && (c.KeepAlive == 0 || c.KeepAlive > limit) {
		s.keepAlive, s.pending.lowered = limit, true
	}
	if c.ClientID == "" {
		s.pending.clientID, s.pending.assigned = s.opts.NewClientID(), true
	}
	if w := c.Will; w != nil {
		s.will = &pubsub.Message{
			Topic: pubsub.Topic(w.Topic), Data: bytes.Clone(w.Payload), Retain: w.Retain,
			HasTTL: w.HasExpiry, TTL: w.Expiry, Properties: bytes.Clone(w.Properties),
		}
	}
	s.state = authorizing
	out.Effects = append(out.Effects, Authorize{Token: string(c.Password), ClientID: s.pending.clientID})
}

// checkConnect checks a CONNECT of version 5 or above, except its token. It does not check
// the right to publish the will, because that counts only when the will is published.
func (s *Session) checkConnect(c *mqtt.Connect) mqtt.ReasonCode {
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
	s.clientHash = HashClient(s.grant, s.pending.clientID)
	s.state = claiming
	out.Effects = append(out.Effects, Claim{ClientHash: s.clientHash})
}

// ClientHashBytes is the length of the result of [HashClient].
const ClientHashBytes = 16

// HashClient returns a hash that identifies a client. It depends on the client identifier
// and its owner, because each owner has its own client identifiers. An owner is identified
// by key and subject; the admin token is one more owner. The hash has a fixed length,
// because it is part of every message and every claim.
func HashClient(g *pubsub.Grant, clientID string) string {
	var b []byte
	if g.Admin {
		b = append(b, 'a')
	} else { // the lengths are needed because both may contain any bytes
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
		HasServerKeepAlive: s.pending.lowered,
	}
	if s.pending.lowered {
		ack.ServerKeepAlive = s.keepAlive
	}
	if s.pending.assigned {
		ack.AssignedClientID = s.pending.clientID
	}
	if !s.send(&ack, out) {
		s.fail(mqtt.PacketTooLarge, now, out)
		return
	}
	s.pending = nil
	s.recordPacket(now)
	s.state = open
}
