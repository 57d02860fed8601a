package server

import (
	"context"
	"encoding/binary"
	"math/rand/v2"

	"pubsub"
	"pubsub/internal/session"
)

// claim is a connection's hold on a client identifier.
type claim struct {
	at int64  // when it was claimed, in nanoseconds since 1970
	id uint64 // random: tells this claim from others; 0 if there is none
}

// takeOverFormat is the first byte of the control message that tells of a claim:
// its time in nanoseconds since 1970 and its id follow, 8 bytes each, then its
// owner.
const takeOverFormat = 1

// claim makes m the session of a client identifier, on all nodes.
func (m *mqttConn) claim(owner string) {
	c := claim{at: m.s.o.Now().UnixNano(), id: max(1, rand.Uint64())}
	m.member.SetName(owner)
	m.smu.Lock()
	m.claimed = c
	m.maxPacket = uint32(m.session.MaxPacketSize())
	m.smu.Unlock()
	if old := m.s.registry.claim(owner, m); old != nil {
		old.step(session.TakenOver{})
	}
	body := []byte{takeOverFormat}
	body = binary.BigEndian.AppendUint64(body, uint64(c.at))
	body = binary.BigEndian.AppendUint64(body, c.id)
	body = append(body, owner...)
	ctx, cancel := context.WithTimeout(context.Background(), backplaneWait)
	defer cancel()
	if err := m.s.o.Backplane.Tell(ctx, pubsub.Control{Kind: controlTakeOver, Body: body}); err != nil {
		m.s.o.Events.Failed("telling other nodes of a client identifier", err)
	}
}

// unclaim gives the client identifier up, unless somebody else has it by now.
func (m *mqttConn) unclaim() {
	m.smu.Lock()
	claimed, owner := m.claimed.id != 0, m.session.Owner()
	m.smu.Unlock()
	if claimed {
		m.s.registry.unclaim(owner, m)
	}
}

// takeOver ends the session of a client identifier that was claimed later, on
// this node or another.
func (s *Server) takeOver(body []byte) {
	if len(body) < 17 || body[0] != takeOverFormat {
		return
	}
	at := int64(binary.BigEndian.Uint64(body[1:]))
	id := binary.BigEndian.Uint64(body[9:])
	m := s.registry.client(string(body[17:]))
	if m == nil {
		return
	}
	m.smu.Lock()
	older := m.claimed.id != id && m.claimed.at <= at
	m.smu.Unlock()
	if older {
		m.step(session.TakenOver{})
	}
}
