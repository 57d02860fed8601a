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

// claim is a connection's claim to a client identifier. Claims name the client by its hash;
// see [session.HashClient].
type claim struct {
	at int64  // the time of the claim; see claimClock
	id uint64 // random, to distinguish claims; 0 for no claim
}

// claimClock orders the claims of all nodes. It returns nanoseconds since 1970, but always a
// later time than those of all claims that this node has made or received. Otherwise a node
// whose wall clock steps back could not take over its own earlier claims.
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

// observe records the time of another node's claim.
func (c *claimClock) observe(at int64) {
	for last := c.last.Load(); at > last && !c.last.CompareAndSwap(last, at); {
		last = c.last.Load()
	}
}

// takeOverFormat is the first byte of an encoded claim. The time in nanoseconds since 1970
// and the id follow, 8 bytes each, then the client's hash, of [session.ClientHashBytes].
const takeOverFormat = 2

const claimBytes = 1 + 8 + 8 + session.ClientHashBytes

// append appends the claim c of client to b, as a control message contains it.
func (c claim) append(b []byte, client string) []byte {
	b = append(b, takeOverFormat)
	b = binary.BigEndian.AppendUint64(b, uint64(c.at))
	b = binary.BigEndian.AppendUint64(b, c.id)
	return append(b, client...)
}

// parseClaim parses a claim that append has encoded.
func parseClaim(b []byte) (c claim, client string, ok bool) {
	if len(b) != claimBytes || b[0] != takeOverFormat {
		return claim{}, "", false
	}
	return claim{at: int64(binary.BigEndian.Uint64(b[1:])), id: binary.BigEndian.Uint64(b[9:])}, string(b[17:]), true
}

// claim makes m the session of client on all nodes.
func (m *mqttConn) claim(client string) {
	c := claim{at: m.s.claimClock.next(m.s.o.Now()), id: max(1, rand.Uint64())}
	m.Subscriber.SetSender(client)
	m.sessionMu.Lock()
	m.claimed = c
	m.maxPacket = uint32(m.session.MaxPacketSize())
	m.sessionMu.Unlock()
	if old := m.s.clients.claim(client, m); old != nil {
		old.endWith(session.TakenOver{})
	}
	if m.IsClosed() { // Close may have given up the identifier before it was claimed
		m.unclaim()
	}
	ctx, cancel := context.WithTimeout(context.Background(), backplaneWait)
	defer cancel()
	if err := m.s.o.Backplane.Broadcast(ctx, pubsub.ControlMessage{Kind: controlTakeOver, Body: c.append(nil, client)}); err != nil {
		m.s.o.Events.Failed("takeover broadcast failed", err)
	}
}

// unclaim gives up the client identifier, unless another session has claimed it.
func (m *mqttConn) unclaim() {
	m.sessionMu.Lock()
	claimed, client := m.claimed.id != 0, m.session.ClientHash()
	m.sessionMu.Unlock()
	if claimed {
		m.s.clients.unclaim(client, m)
	}
}

// takeOver ends the session of a client that another session has claimed later, on this node
// or another.
func (s *Server) takeOver(body []byte) {
	theirs, client, ok := parseClaim(body)
	if !ok {
		return
	}
	s.claimClock.observe(theirs.at)
	if m, ours := s.claimOf(client); m != nil && ours.id != theirs.id && ours.at <= theirs.at {
		m.endWith(session.TakenOver{})
	}
}

// claimOf returns the session of client and its claim. The session is nil if there is none.
func (s *Server) claimOf(client string) (*mqttConn, claim) {
	m := s.clients.get(client)
	if m == nil {
		return nil, claim{}
	}
	m.sessionMu.Lock()
	defer m.sessionMu.Unlock()
	return m, m.claimed
}

// claimsSize is about how many bytes of claims one control message has.
const claimsSize = 64 << 10

// CompareClaims compares the claims of this node with those of the others, so that only the
// latest claim to each client identifier stays. It must be called after control messages to
// or from this node may have been lost.
func (s *Server) CompareClaims(ctx context.Context) {
	var batch []byte
	for _, m := range s.clients.all() {
		m.sessionMu.Lock()
		c, client := m.claimed, m.session.ClientHash()
		m.sessionMu.Unlock()
		if c.id == 0 {
			continue
		}
		batch = appendClaim(batch, c, client)
		if len(batch) >= claimsSize {
			if !s.compareClaims(ctx, batch) {
				return
			}
			batch = batch[:0]
		}
	}
	if len(batch) > 0 {
		s.compareClaims(ctx, batch)
	}
}

// compareClaims makes the other nodes compare a batch of claims with theirs. It reports
// whether the Bus succeeded.
func (s *Server) compareClaims(ctx context.Context, batch []byte) bool {
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

// answerClaims ends the sessions for which batch, from another node, has later claims. It
// returns the claims of this node that are later than those in batch.
func (s *Server) answerClaims(batch []byte) (later []byte) {
	var over [][]byte
	for one := range eachClaim(batch) {
		theirs, client, ok := parseClaim(one)
		if !ok {
			continue
		}
		s.claimClock.observe(theirs.at)
		switch m, ours := s.claimOf(client); {
		case m == nil || ours.id == theirs.id || ours.id == 0:
		case ours.at <= theirs.at:
			over = append(over, bytes.Clone(one))
		default:
			later = appendClaim(later, ours, client)
		}
	}
	if len(over) > 0 {
		// In a goroutine: the end of a session may wait until its will is published.
		s.registry.GoUnlessDraining(func() {
			for _, one := range over {
				s.takeOver(one)
			}
		})
	}
	return later
}

// appendClaim appends a claim to a batch, after its length.
func appendClaim(b []byte, c claim, client string) []byte {
	one := c.append(nil, client)
	return append(binary.AppendUvarint(b, uint64(len(one))), one...)
}

// eachClaim yields the encoded claims of a batch, and ends where the batch is malformed.
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
