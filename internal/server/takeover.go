package server

import (
	"bytes"
	"context"
	"encoding/binary"
	"iter"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"pubsub"
	"pubsub/internal/session"
)

// claim is a connection's hold on a client identifier.
type claim struct {
	at int64  // when it was claimed; see claimClock
	id uint64 // random: tells this claim from others; 0 if there is none
}

// claimClock orders the claims of all nodes. It shows nanoseconds since 1970, but always
// a later time than any claim that this node has made or received. Otherwise a node whose
// wall clock steps back could not take over its own earlier claims.
type claimClock struct{ last atomic.Int64 }

// next returns the time of a new claim.
func (c *claimClock) next(now time.Time) int64 {
	for {
		last := c.last.Load()
		at := max(last+1, now.UnixNano())
		if c.last.CompareAndSwap(last, at) {
			return at
		}
	}
}

// heard records the time of another node's claim.
func (c *claimClock) heard(at int64) {
	for last := c.last.Load(); at > last && !c.last.CompareAndSwap(last, at); {
		last = c.last.Load()
	}
}

// takeOverFormat is the first byte of the control message that tells of a claim:
// its time in nanoseconds since 1970 and its id follow, 8 bytes each, then its
// owner, of [session.ClientHashBytes].
const takeOverFormat = 2

const claimBytes = 1 + 8 + 8 + session.ClientHashBytes

// append appends c, of owner, to b as a control message tells it.
func (c claim) append(b []byte, owner string) []byte {
	b = append(b, takeOverFormat)
	b = binary.BigEndian.AppendUint64(b, uint64(c.at))
	b = binary.BigEndian.AppendUint64(b, c.id)
	return append(b, owner...)
}

// parseClaim reads what append has appended; false if it is something else.
func parseClaim(b []byte) (c claim, owner string, ok bool) {
	if len(b) != claimBytes || b[0] != takeOverFormat {
		return claim{}, "", false
	}
	return claim{at: int64(binary.BigEndian.Uint64(b[1:])), id: binary.BigEndian.Uint64(b[9:])}, string(b[17:]), true
}

// claim makes m the session of a client identifier, on all nodes.
func (m *mqttConn) claim(owner string) {
	c := claim{at: m.s.claimClock.next(m.s.o.Now()), id: max(1, rand.Uint64())}
	m.Subscriber.SetSender(owner)
	m.sessionMu.Lock()
	m.claimed = c
	m.maxPacket = uint32(m.session.MaxPacketSize())
	m.sessionMu.Unlock()
	if old := m.s.clients.claim(owner, m); old != nil {
		old.endWith(session.TakenOver{})
	}
	if m.IsClosed() { // Close may have given up the identifier before it was claimed
		m.unclaim()
	}
	ctx, cancel := context.WithTimeout(context.Background(), backplaneWait)
	defer cancel()
	if err := m.s.o.Backplane.Broadcast(ctx, pubsub.ControlMessage{Kind: controlTakeOver, Body: c.append(nil, owner)}); err != nil {
		m.s.o.Events.Failed("takeover broadcast failed", err)
	}
}

// unclaim gives the client identifier up, unless somebody else has it by now.
func (m *mqttConn) unclaim() {
	m.sessionMu.Lock()
	claimed, owner := m.claimed.id != 0, m.session.ClientHash()
	m.sessionMu.Unlock()
	if claimed {
		m.s.clients.unclaim(owner, m)
	}
}

// takeOver ends the session of a client identifier that was claimed later, on
// this node or another.
func (s *Server) takeOver(body []byte) {
	theirs, owner, ok := parseClaim(body)
	if !ok {
		return
	}
	s.claimClock.heard(theirs.at)
	if m, ours := s.claimOf(owner); m != nil && ours.id != theirs.id && ours.at <= theirs.at {
		m.endWith(session.TakenOver{})
	}
}

// claimOf returns the session of a client identifier, and its claim; nil if there
// is none.
func (s *Server) claimOf(owner string) (*mqttConn, claim) {
	m := s.clients.get(owner)
	if m == nil {
		return nil, claim{}
	}
	m.sessionMu.Lock()
	defer m.sessionMu.Unlock()
	return m, m.claimed
}

// claimsSize is about how many bytes of claims are asked about at once.
const claimsSize = 64 << 10

// Rejoined is to be called when claims that this node or another has told may not
// have come. The nodes compare what they have: of each client identifier the latest
// claim stays.
func (s *Server) Rejoined(ctx context.Context) {
	var batch []byte
	for _, m := range s.clients.all() {
		m.sessionMu.Lock()
		c, owner := m.claimed, m.session.ClientHash()
		m.sessionMu.Unlock()
		if c.id == 0 {
			continue
		}
		batch = appendClaim(batch, c, owner)
		if len(batch) >= claimsSize {
			if !s.askForClaims(ctx, batch) {
				return
			}
			batch = batch[:0]
		}
	}
	if len(batch) > 0 {
		s.askForClaims(ctx, batch)
	}
}

// askForClaims has the nodes compare claims of this one with theirs; false if that
// cannot be done now.
func (s *Server) askForClaims(ctx context.Context, batch []byte) bool {
	ctx, cancel := context.WithTimeout(ctx, backplaneWait)
	defer cancel()
	replies, err := s.o.Backplane.Gather(ctx, pubsub.ControlMessage{Kind: controlClaims, Body: batch})
	if err != nil {
		s.o.Events.Failed("claim comparison failed", err)
		return false
	}
	for _, r := range replies {
		for one := range eachClaim(r) {
			s.takeOver(one)
		}
	}
	return true
}

// answerClaims ends the sessions that another node has later claims for, and
// returns the claims of this one that are later than the other's.
func (s *Server) answerClaims(batch []byte) (later []byte) {
	var over [][]byte
	for one := range eachClaim(batch) {
		theirs, owner, ok := parseClaim(one)
		if !ok {
			continue
		}
		s.claimClock.heard(theirs.at)
		switch m, ours := s.claimOf(owner); {
		case m == nil || ours.id == theirs.id || ours.id == 0:
		case ours.at <= theirs.at:
			over = append(over, bytes.Clone(one))
		default:
			later = appendClaim(later, ours, owner)
		}
	}
	if len(over) > 0 {
		// To end a session may take as long as to publish its will.
		s.registry.GoUnlessDraining(func() {
			for _, one := range over {
				s.takeOver(one)
			}
		})
	}
	return later
}

// appendClaim appends a claim and its length to b, as one of many.
func appendClaim(b []byte, c claim, owner string) []byte {
	one := c.append(nil, owner)
	return append(binary.AppendUvarint(b, uint64(len(one))), one...)
}

// eachClaim yields what appendClaim has appended, up to what cannot be read.
func eachClaim(b []byte) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for len(b) > 0 {
			size, n := binary.Uvarint(b)
			if n <= 0 || size > uint64(len(b)-n) || !yield(b[n:n+int(size)]) {
				return
			}
			b = b[n+int(size):]
		}
	}
}
