package nats

import (
	"testing"
	"time"

	"pubsub"
)

// A node that was told something while the servers were cut off from one another
// notices afterwards that it never came, although its own connection was never lost.
func TestMissedControlIsNoticed(t *testing.T) {
	c, routes := newSeverableCluster(t, 3)
	o := Options{SyncInterval: time.Second}
	o.URLs = []string{c.servers[1].url()}
	b := newNode(t, o)
	o.URLs = []string{c.servers[0].url()}
	a := newNode(t, o)
	eventually(t, "that the nodes know each other", func() bool { return a.Stats().Nodes == 2 && b.Stats().Nodes == 2 })
	told := func() uint64 {
		b.bus.nodes.mu.Lock()
		defer b.bus.nodes.mu.Unlock()
		return b.bus.nodes.all[a.link.node]
	}
	if n := b.rejoined.Load(); n != 0 {
		t.Fatalf("before the cut it has rejoined %d times", n)
	}
	sever(routes, 0, true)
	before := told()
	if err := a.Broadcast(ctxFor(t), pubsub.ControlMessage{Kind: "k"}); err != nil {
		t.Fatal(err)
	}
	sever(routes, 0, false)
	eventually(t, "that something comes again", func() bool { return told() > before })
	eventually(t, "that the node has noticed", func() bool { return b.rejoined.Load() > 0 })
	if n := b.Stats().Reconnects; n != 0 {
		t.Errorf("it was connected anew %d times", n)
	}
}

// What is missing is noticed when the next message comes, of each node apart.
func TestNodesHeard(t *testing.T) {
	const self, other = 1, 2
	for _, tt := range []struct {
		what    string
		numbers []uint64 // of what comes from other
		missed  bool
	}{
		{"from the first one on", []uint64{1, 2, 3}, false},
		{"the first ones not", []uint64{3}, true},
		{"one not", []uint64{1, 2, 4}, true},
		{"in another order, which is not told from one that never comes", []uint64{1, 3, 2}, true},
		{"one twice", []uint64{1, 2, 2, 3}, false},
	} {
		n := newNodes(&link{node: self})
		for i, number := range tt.numbers {
			if news := n.heard(other, number); news != (i == 0) {
				t.Errorf("%s: number %d is news: %v", tt.what, number, news)
			}
			n.heard(self, 100*number) // what it tells itself
		}
		if missed := len(n.missed) > 0; missed != tt.missed {
			t.Errorf("%s: missed is %v", tt.what, missed)
		}
	}
}
