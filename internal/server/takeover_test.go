package server

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pubsub"
	"pubsub/internal/session"
)

// Only the latest claim to each client identifier stays, on this node or another.
func TestClaimsAreCompared(t *testing.T) {
	inTime(t, nil, func(t *testing.T, s *Server) {
		const sessions = 2000 // more than one control message has
		peers := make([]*peer, sessions)
		for i := range peers {
			peers[i] = openSocket(t, s, connect(fmt.Sprintf("%0100d", i), 0))
			time.Sleep(time.Millisecond)
		}
		synctest.Wait()
		s.CompareClaims(t.Context()) // this node hears itself, and takes nothing over
		var batch []byte
		var earlier, later int
		for i, m := range s.clients.all() {
			client := m.session.ClientHash()
			_, c := s.claimOf(client)
			switch i % 3 {
			case 0: // the same
			case 1:
				later++
				c.at, c.id = c.at+int64(i%2), c.id+1
			case 2:
				earlier++
				c.at, c.id = c.at-1, c.id+1
			}
			batch = appendClaim(batch, c, client)
			batch = appendClaim(batch, c, strings.Repeat("u", session.ClientHashBytes))
		}
		batch = append(batch, 1, 'x') // an unknown format
		reply := s.answerClaims(batch)
		synctest.Wait()
		newer := 0
		for one := range eachClaim(reply) {
			c, client, ok := parseClaim(one)
			if m, ours := s.claimOf(client); !ok || m == nil || ours != c {
				t.Fatalf("the reply has the wrong claim %q", one)
			}
			newer++
		}
		if newer != earlier {
			t.Errorf("the reply has %d claims, want %d", newer, earlier)
		}
		if left := len(s.clients.all()); left != sessions-later {
			t.Errorf("%d sessions are left, want %d", left, sessions-later)
		}
		s.answerClaims([]byte{200, 1, 'x'}) // truncated
		// Replies of other nodes end sessions as well.
		for _, m := range s.clients.all() {
			s.Control(pubsub.ControlMessage{Kind: controlTakeOver, Body: claim{m.claimed.at, 1}.append(nil, m.session.ClientHash())})
		}
		synctest.Wait()
		if left := len(s.clients.all()); left != 0 {
			t.Errorf("%d sessions are left, want none", left)
		}
	})
}

// The latest connection takes over a client identifier, even on a node whose wall clock has
// stepped back since the earlier claims.
func TestClaimAfterAStepBack(t *testing.T) {
	var c wallClock
	inTime(t, func(o *Options) { o.Now = c.now }, func(t *testing.T, s *Server) {
		openSocket(t, s, connect("c", 0))
		synctest.Wait()
		var body []byte // the control message of the first claim
		for _, m := range s.clients.all() {
			body = m.claimed.append(nil, m.session.ClientHash())
		}
		c.jump(-time.Hour)
		second := openSocket(t, s, connect("c", 0))
		synctest.Wait()
		s.Control(pubsub.ControlMessage{Kind: controlTakeOver, Body: body})
		synctest.Wait()
		if second.end() != 0 {
			t.Error("the late control message of the first claim has ended the second session")
		}
		// A claim of another node, whose clock is an hour ahead.
		theirs := claim{at: time.Now().UnixNano(), id: 1}
		s.Control(pubsub.ControlMessage{Kind: controlTakeOver, Body: theirs.append(nil, "another client")})
		openSocket(t, s, connect("d", 0))
		synctest.Wait()
		for _, m := range s.clients.all() {
			if strings.HasSuffix(m.session.ClientHash(), "d") && m.claimed.at <= theirs.at {
				t.Error("a new claim is older than one that the node has received")
			}
		}
	})
}
