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

// nodeCount is how many nodes the brokers of RunNodes have.
const nodeCount = 3

// RunNodes runs the tests of a broker of several nodes. open returns so many
// backplanes of a new, empty broker that nobody else uses; the test closes them.
func RunNodes(t *testing.T, open func(t *testing.T, nodes int) []pubsub.Backplane) {
	for _, test := range []struct {
		name string
		run  func(ctx context.Context, t *testing.T, nodes []pubsub.Backplane)
	}{
		{"StoreIsOne", storeIsOne},
		{"KeysAreOne", keysAreOne},
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
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			test.run(ctx, t, nodes)
		})
	}
}

// storeIsOne checks that what one node has put, every other one reads at once, and
// that versions grow from node to node.
func storeIsOne(ctx context.Context, t *testing.T, nodes []pubsub.Backplane) {
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

// keysAreOne checks that a key of one node is known to all at once, and that their
// watches are told of it.
func keysAreOne(ctx context.Context, t *testing.T, nodes []pubsub.Backplane) {
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
			t.Errorf("PutKey of a taken id: %v", err)
		}
	}
	for _, w := range watches { // or the deletion might be all that a watch ever sees
		wantChange(ctx, t, w, pubsub.KeyEvent{Key: key})
	}
	if err := nodes[1].DeleteKey(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	for i, b := range nodes {
		if _, err := b.Key(ctx, "a"); !errors.Is(err, pubsub.ErrKeyNotFound) {
			t.Errorf("Key of a deleted one: %v", err)
		}
		wantChange(ctx, t, watches[i], pubsub.KeyEvent{Key: pubsub.Key{ID: "a"}, Deleted: true})
	}
	// A key may be gone before a watch gets to it. That it is gone is told all the
	// same, also if that it was there is not.
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
					t.Fatalf("that %s is gone is not told", brief.ID)
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

// settle sends messages from every node to every other one until they arrive: the
// Bus does not promise that the first ones do, while interest spreads.
func settle(ctx context.Context, t *testing.T, nodes []pubsub.Backplane, topic pubsub.Topic, got []<-chan pubsub.Message) {
	t.Helper()
	for i, from := range nodes {
		for j := range nodes {
			data := fmt.Sprintf("settle %d %d", i, j)
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
						t.Fatalf("what node %d sends does not reach node %d", i, j)
					}
				}
				again.Stop()
			}
		}
	}
}

// messagesReachAll checks that what is published on one node reaches all that want
// the topic, with its version, and in the publisher's order.
func messagesReachAll(ctx context.Context, t *testing.T, nodes []pubsub.Backplane) {
	var got []<-chan pubsub.Message
	for _, b := range nodes {
		deliver, c := inbox("t")
		running(ctx, t, b, pubsub.Receiver{Deliver: deliver})
		want(ctx, t, b, "t")
		defer b.Unsubscribe("t")
		got = append(got, c)
	}
	settle(ctx, t, nodes, "t", got)
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
				for !next.Retain { // what settle has sent
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

// controlReachesAll checks that every node is told, and that all replies come.
func controlReachesAll(ctx context.Context, t *testing.T, nodes []pubsub.Backplane) {
	told := make([]chan pubsub.ControlMessage, len(nodes))
	for i, b := range nodes {
		told[i] = make(chan pubsub.ControlMessage, 1000)
		running(ctx, t, b, pubsub.Receiver{Control: func(c pubsub.ControlMessage) []byte {
			if c.Kind == "ask" {
				return fmt.Append(nil, i, string(c.Body))
			}
			told[i] <- c
			return nil
		}})
	}
	for i, b := range nodes {
		askAll(ctx, t, b, len(nodes))
		c := pubsub.ControlMessage{Kind: "tell", Body: fmt.Append(nil, i)}
		if err := b.Broadcast(ctx, c); err != nil {
			t.Fatal(err)
		}
		for j := range nodes {
			if got := receive(ctx, t, told[j], "what was told"); got.Kind != c.Kind || !bytes.Equal(got.Body, c.Body) {
				t.Errorf("node %d is told %+v, want %+v", j, got, c)
			}
		}
	}
}

// askAll asks until so many replies come, all different: a bus may learn of its
// nodes only by and by.
func askAll(ctx context.Context, t *testing.T, b pubsub.Backplane, n int) {
	t.Helper()
	for {
		within, cancel := context.WithTimeout(ctx, 2*time.Second)
		replies, err := b.Gather(within, pubsub.ControlMessage{Kind: "ask", Body: []byte("!")})
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

// nodeLeaves checks that the others work on without a node, and do not wait for its
// replies for ever.
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
	askAll(ctx, t, nodes[1], len(nodes))
	if err := nodes[0].Close(); err != nil {
		t.Fatal(err)
	}
	if err := receive(ctx, t, ended, "the end of Run"); !errors.Is(err, pubsub.ErrClosed) {
		t.Errorf("Run = %v, want %v", err, pubsub.ErrClosed)
	}
	askAll(ctx, t, nodes[1], len(nodes)-1)
	m := retained("t", "after")
	v := put(ctx, t, nodes[1], m)
	wantLast(ctx, t, nodes[2], pubsub.Version{}, m, v)
}
