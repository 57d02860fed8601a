package backplanetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"pubsub"
)

// nodeCount is the number of nodes of a broker in RunNodes.
const nodeCount = 3

// RunNodes runs the tests of a broker with several nodes. open returns the backplanes of
// that many nodes of a new, empty broker that the test has for itself; the test closes
// them.
func RunNodes(t *testing.T, open func(t *testing.T, nodes int) []pubsub.Backplane) {
	for _, test := range []struct {
		name string
		run  func(ctx context.Context, t *testing.T, nodes []pubsub.Backplane)
	}{
		{"StoreIsShared", storeIsShared},
		{"KeysAreShared", keysAreShared},
		{"MessagesReachAll", messagesReachAll},
		{"ControlReachesAll", controlReachesAll},
		{"NodeLeaves", nodeLeaves},
	} {
		t.Run(test.name, func(t *testing.T) {
			nodes := open(t, nodeCount)
			t.Cleanup(func() {
				for _, b := range nodes {
					if err := b.Close(); err != nil {
						t.Errorf("Close: %v", err)
					}
				}
			})
			ctx, cancel := context.WithTimeout(t.Context(), timeout)
			defer cancel()
			test.run(ctx, t, nodes)
		})
	}
}

// storeIsShared checks that every node reads a message at once after any node has put it,
// and that versions grow across nodes.
func storeIsShared(ctx context.Context, t *testing.T, nodes []pubsub.Backplane) {
	var prev pubsub.Version
	for i := range 30 {
		m := retained("t", fmt.Sprint(i))
		v := put(ctx, t, nodes[i%len(nodes)], m)
		if !v.Newer(prev) || !prev.IsZero() && v.Generation != prev.Generation {
			t.Fatalf("version %v follows %v", v, prev)
		}
		for _, b := range nodes {
			wantLast(ctx, t, b, prev, m, v)
		}
		prev = v
	}
	v := put(ctx, t, nodes[0], retained("t", ""))
	for _, b := range nodes {
		wantCleared(ctx, t, b, "t", prev, v)
		if l, err := b.List(ctx, "", "", 10); err != nil || len(l) != 0 {
			t.Errorf("List after the clear = %v, %v", l, err)
		}
	}
}

// keysAreShared checks that every node knows a key at once after any node has put or
// deleted it, and that the watches of all nodes report it.
func keysAreShared(ctx context.Context, t *testing.T, nodes []pubsub.Backplane) {
	var watches []<-chan pubsub.KeyEvent
	for _, b := range nodes {
		w := watch(ctx, t, b)
		wantChange(ctx, t, w, pubsub.KeyEvent{Synced: true})
		watches = append(watches, w)
	}
	key := newKey("a", "v")
	mustPut(ctx, t, nodes[0], key)
	for _, b := range nodes {
		if got, err := b.Key(ctx, "a"); err != nil || !sameKey(got, key) {
			t.Errorf("Key = %v, %v, want %v", got, err, key)
		}
		if got, err := b.Keys(ctx); err != nil || !slices.EqualFunc(got, []pubsub.Key{key}, sameKey) {
			t.Errorf("Keys = %v, %v", got, err)
		}
		if err := b.PutKey(ctx, newKey("a", "w")); !errors.Is(err, pubsub.ErrKeyExists) {
			t.Errorf("PutKey of an id in use: %v", err)
		}
	}
	for _, w := range watches { // before the deletion, because a watch may skip a deleted key
		wantChange(ctx, t, w, pubsub.KeyEvent{Key: key})
	}
	if err := nodes[1].DeleteKey(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	for i, b := range nodes {
		if _, err := b.Key(ctx, "a"); !errors.Is(err, pubsub.ErrKeyNotFound) {
			t.Errorf("Key of a deleted key: %v", err)
		}
		wantChange(ctx, t, watches[i], pubsub.KeyEvent{Key: pubsub.Key{ID: "a"}, Deleted: true})
	}
	// A watch may miss a key that is deleted at once, but must report its deletion.
	for i := range 20 {
		brief := newKey(fmt.Sprint("brief", i), "v")
		mustPut(ctx, t, nodes[0], brief)
		if err := nodes[1].DeleteKey(ctx, brief.ID); err != nil {
			t.Fatal(err)
		}
		for _, w := range watches {
			for {
				var c pubsub.KeyEvent
				select {
				case c = <-w:
				case <-ctx.Done():
					t.Fatalf("the deletion of %s is not reported", brief.ID)
				}
				if c.Key.ID != brief.ID {
					t.Fatalf("a change of %q, want one of %q", c.Key.ID, brief.ID)
				}
				if c.Deleted {
					break
				}
			}
		}
	}
}

// connect sends messages from every node to every node until they arrive. The first ones
// may be lost, because subscriptions take time to reach all nodes.
func connect(ctx context.Context, t *testing.T, nodes []pubsub.Backplane, topic pubsub.Topic, got []<-chan pubsub.Message) {
	t.Helper()
	for i, from := range nodes {
		for j := range nodes {
			data := fmt.Sprintf("connect %d %d", i, j)
			for arrived := false; !arrived; {
				send(ctx, t, from, pubsub.Message{Topic: topic, Data: []byte(data), Published: time.Now()})
				again := time.NewTimer(100 * time.Millisecond)
			wait:
				for {
					select {
					case m := <-got[j]:
						if arrived = string(m.Data) == data; arrived {
							break wait
						}
					case <-again.C:
						break wait
					case <-ctx.Done():
						t.Fatalf("messages from node %d do not reach node %d", i, j)
					}
				}
				again.Stop()
			}
		}
	}
}

// messagesReachAll checks that messages published on one node reach all subscribed nodes,
// with their versions and in the publisher's order.
func messagesReachAll(ctx context.Context, t *testing.T, nodes []pubsub.Backplane) {
	var got []<-chan pubsub.Message
	for _, b := range nodes {
		deliver, c := inbox("t")
		running(ctx, t, b, pubsub.Receiver{Deliver: deliver})
		subscribe(ctx, t, b, "t")
		defer b.Unsubscribe("t")
		got = append(got, c)
	}
	connect(ctx, t, nodes, "t", got)
	for i, b := range nodes {
		var sent []pubsub.Message
		for n := range 50 {
			m := retained("t", fmt.Sprint(i, " retained ", n))
			v, err := pubsub.Publish(ctx, b, m)()
			if err != nil {
				t.Fatal(err)
			}
			m.Version = v
			sent = append(sent, m)
		}
		for j, c := range got {
			for _, m := range sent {
				next := receive(ctx, t, c, "a retained message")
				for !next.Retain { // sent by connect
					next = receive(ctx, t, c, "a retained message")
				}
				if diff := difference(next, m); diff != "" {
					t.Fatalf("from node %d to node %d: %s", i, j, diff)
				}
			}
		}
		for n := range 50 {
			send(ctx, t, b, pubsub.Message{Topic: "t", Data: fmt.Append(nil, i, " plain ", n), Published: time.Now()})
		}
		for j, c := range got {
			for n := range 50 {
				if m := receive(ctx, t, c, "a plain message"); string(m.Data) != fmt.Sprint(i, " plain ", n) {
					t.Fatalf("from node %d to node %d: %q, want number %d", i, j, m.Data, n)
				}
			}
		}
	}
}

// controlReachesAll checks that control messages reach every node, and that Gather returns
// all replies.
func controlReachesAll(ctx context.Context, t *testing.T, nodes []pubsub.Backplane) {
	received := make([]chan pubsub.ControlMessage, len(nodes))
	for i, b := range nodes {
		received[i] = make(chan pubsub.ControlMessage, 1000)
		running(ctx, t, b, pubsub.Receiver{Control: func(c pubsub.ControlMessage) []byte {
			if c.Kind == "gather" {
				return fmt.Append(nil, i, string(c.Body))
			}
			received[i] <- c
			return nil
		}})
	}
	for i, b := range nodes {
		gatherAll(ctx, t, b, len(nodes))
		c := pubsub.ControlMessage{Kind: "broadcast", Body: fmt.Append(nil, i)}
		if err := b.Broadcast(ctx, c); err != nil {
			t.Fatal(err)
		}
		for j := range nodes {
			if got := receive(ctx, t, received[j], "the control message"); got.Kind != c.Kind || !bytes.Equal(got.Body, c.Body) {
				t.Errorf("node %d received %+v, want %+v", j, got, c)
			}
		}
	}
}

// gatherAll calls Gather until n different replies arrive, because a bus may take a while
// to learn of its nodes.
func gatherAll(ctx context.Context, t *testing.T, b pubsub.Backplane, n int) {
	t.Helper()
	for {
		within, cancel := context.WithTimeout(ctx, 2*time.Second)
		replies, err := b.Gather(within, pubsub.ControlMessage{Kind: "gather", Body: []byte("!")})
		cancel()
		if err != nil {
			t.Fatalf("Gather: %v", err)
		}
		slices.SortFunc(replies, bytes.Compare)
		replies = slices.CompactFunc(replies, bytes.Equal)
		if len(replies) == n {
			return
		}
		if ctx.Err() != nil {
			t.Fatalf("Gather = %q, want %d replies", replies, n)
		}
	}
}

// nodeLeaves checks that the other nodes keep working after a node has closed, and stop
// waiting for its replies.
func nodeLeaves(ctx context.Context, t *testing.T, nodes []pubsub.Backplane) {
	ended := make(chan error, 1)
	for i, b := range nodes {
		r := pubsub.Receiver{Control: func(c pubsub.ControlMessage) []byte { return fmt.Append(nil, i, string(c.Body)) }}
		if i > 0 {
			running(ctx, t, b, r)
			continue
		}
		ready := make(chan struct{})
		r.Ready = func() { close(ready) }
		r.Deliver = func(*pubsub.PreparedMessage) {}
		go func() { ended <- b.Run(ctx, r) }()
		receive(ctx, t, ready, "Ready")
	}
	gatherAll(ctx, t, nodes[1], len(nodes))
	if err := nodes[0].Close(); err != nil {
		t.Fatal(err)
	}
	if err := receive(ctx, t, ended, "the end of Run"); !errors.Is(err, pubsub.ErrClosed) {
		t.Errorf("Run = %v, want %v", err, pubsub.ErrClosed)
	}
	gatherAll(ctx, t, nodes[1], len(nodes)-1)
	m := retained("t", "after")
	v := put(ctx, t, nodes[1], m)
	wantLast(ctx, t, nodes[2], pubsub.Version{}, m, v)
}
