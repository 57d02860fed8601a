package nats

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"pubsub"
	"pubsub/internal/testkit"
)

// A leader that is cut off from the other servers answers for up to ten seconds as if it still
// led the stream. A node that asks it gets an error, not the message that was the newest before
// the cut.
func TestLeaderWithoutQuorum(t *testing.T) {
	t.Parallel()
	c, routes := newSeverableCluster(t, 3)
	first := newNode(t, Options{URLs: c.urls()})
	stream := first.stream.name()
	leader := c.leader(stream)
	var others []string
	for _, s := range c.servers {
		if s != leader {
			others = append(others, s.url())
		}
	}
	behind := newNode(t, Options{URLs: []string{leader.url()}})
	ahead := newNode(t, Options{URLs: others})
	behind.wantLast("t", pubsub.Version{}, "old", ahead.put("t", "old"))
	i := slices.Index(c.servers, leader)
	sever(routes, i, true)
	newest := ahead.putEventually("t", "new") // another leader stores it
	stillLeads := leader.Running.JetStreamIsStreamLeader("$G", stream)
	ctx := testContext(t)
	short, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	m, ok, err := behind.Last(short, "t", pubsub.Version{})
	switch {
	case err == nil && (!ok || string(m.Data) != "new"):
		t.Errorf("Last from the old leader = %q, %v", m.Data, ok)
	case err != nil && !errors.Is(err, pubsub.ErrUnavailable) && !errors.Is(err, context.DeadlineExceeded):
		t.Errorf("Last from the old leader: %v", err)
	}
	if err := behind.Health(ctx); !errors.Is(err, pubsub.ErrUnavailable) {
		t.Errorf("Health at the old leader = %v, want %v", err, pubsub.ErrUnavailable)
	}
	if !stillLeads {
		t.Log("the old leader had stepped down already")
	}
	sever(routes, i, false)
	behind.wantLast("t", pubsub.Version{}, "new", newest)
}

// A node that misses a broadcast, because the servers were cut off from one another, notices that
// afterwards, although its own connection was never lost.
func TestMissedBroadcast(t *testing.T) {
	t.Parallel()
	c, routes := newSeverableCluster(t, 3)
	b := newNode(t, Options{URLs: []string{c.servers[1].url()}, SyncInterval: time.Second})
	a := newNode(t, Options{URLs: []string{c.servers[0].url()}, SyncInterval: time.Second})
	testkit.Eventually(t, "two nodes that know each other", func() bool { return a.Stats().Nodes == 2 && b.Stats().Nodes == 2 })
	number := func() uint64 { return b.bus.nodes.known()[a.client.node] }
	if n := b.rejoined.Load(); n != 0 {
		t.Fatalf("Rejoined was called %d times before the cut", n)
	}
	sever(routes, 0, true)
	before := number()
	if err := a.Broadcast(testContext(t), pubsub.ControlMessage{Kind: "k"}); err != nil {
		t.Fatal(err)
	}
	sever(routes, 0, false)
	testkit.Eventually(t, "a later broadcast", func() bool { return number() > before })
	testkit.Eventually(t, "a call of Rejoined", func() bool { return b.rejoined.Load() > 0 })
	if n := b.Stats().Reconnects; n != 0 {
		t.Errorf("the node was connected again %d times, want 0", n)
	}
}

// A gap in the numbers of a node's broadcasts shows with the next one.
func TestBroadcastGaps(t *testing.T) {
	const self, other = 1, 2
	for _, tt := range []struct {
		name    string
		numbers []uint64 // of the broadcasts from other
		gap     bool
	}{
		{"complete", []uint64{1, 2, 3}, false},
		{"the first ones lost", []uint64{3}, true},
		{"one lost", []uint64{1, 2, 4}, true},
		{"reordered, which looks like a loss", []uint64{1, 3, 2}, true},
		{"one repeated", []uint64{1, 2, 2, 3}, false},
	} {
		n := newNodes(&client{node: self})
		for i, number := range tt.numbers {
			if isNew := n.observe(other, number); isNew != (i == 0) {
				t.Errorf("%s: number %d is from a new node: %v", tt.name, number, isNew)
			}
			n.observe(self, 100*number) // gaps in its own broadcasts do not count
		}
		if gap := len(n.gaps) > 0; gap != tt.gap {
			t.Errorf("%s: gap is %v, want %v", tt.name, gap, tt.gap)
		}
	}
}
