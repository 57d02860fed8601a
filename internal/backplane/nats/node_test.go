package nats

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pubsub"
	"pubsub/internal/testkit"
)

const patience = testkit.Patience

// node is a backplane that runs, with what it has delivered.
type node struct {
	*Backplane
	t testing.TB

	control func(pubsub.ControlMessage) []byte // nil: no reply

	began map[pubsub.Topic]pubsub.Version // what was read of topics when they began to be wanted; owned by the test's goroutine

	rejoined atomic.Int64 // how often

	swept atomic.Pointer[string] // why there was the last sweep that came to the end of the stream

	mu  sync.Mutex
	got map[pubsub.Topic][]pubsub.Message // guarded by mu: in the order of delivery

	blocked atomic.Pointer[chan struct{}] // if set, Deliver waits for it
	heard   atomic.Pointer[chan struct{}] // if set, it is told of each message
}

// newNode opens a backplane and runs it until the test is over. Unless o says otherwise,
// it does not check the streams without a reason, because tests put them into states that
// it would repair.
func newNode(t testing.TB, o Options) *node {
	t.Helper()
	n := &node{t: t, got: map[pubsub.Topic][]pubsub.Message{}}
	events := o.Events.Resynced
	o.Events.Resynced = func(why string, repaired int) {
		if n.bus.sweeper.stale == 0 {
			n.swept.Store(&why)
		}
		if events != nil {
			events(why, repaired)
		}
	}
	once := o.lookEvery == 0
	o.lookEvery = cmp.Or(o.lookEvery, time.Hour)
	looked := make(chan struct{}, 1)
	o.looked = func() {
		select {
		case looked <- struct{}{}:
		default:
		}
	}
	n.Backplane = open(t, o)
	ready := make(chan struct{})
	done := make(chan error, 1)
	go func() {
		done <- n.Run(context.Background(), pubsub.Receiver{
			Ready:    func() { close(ready) },
			Deliver:  n.delivered,
			Rejoined: func(context.Context) { n.rejoined.Add(1) },
			Control: func(c pubsub.ControlMessage) []byte {
				if n.control == nil {
					return nil
				}
				return n.control(c)
			},
		})
	}()
	t.Cleanup(func() {
		n.Close()
		<-done
	})
	select {
	case <-ready:
	case err := <-done:
		done <- nil
		t.Fatalf("Run: %v", err)
	case <-time.After(patience):
		t.Fatal("not ready")
	}
	if once { // the one look, before the test changes what it must not see
		select {
		case <-looked:
		case <-time.After(patience):
			t.Fatal("the streams were not looked at")
		}
	}
	return n
}

func (n *node) delivered(p *pubsub.PreparedMessage) {
	if c := n.blocked.Load(); c != nil {
		<-*c
	}
	n.mu.Lock()
	n.got[p.Topic] = append(n.got[p.Topic], p.Message)
	n.mu.Unlock()
	if c := n.heard.Load(); c != nil {
		*c <- struct{}{}
	}
}

func ctxFor(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func (n *node) want(topics ...pubsub.Topic) {
	n.t.Helper()
	for _, topic := range topics {
		if err := n.Subscribe(ctxFor(n.t), topic); err != nil {
			n.t.Fatalf("Subscribe(%q): %v", topic, err)
		}
	}
}

func retainedMessage(topic pubsub.Topic, data string) pubsub.Message {
	return pubsub.Message{Topic: topic, Data: []byte(data), Retain: true, Published: time.Now()}
}

func (n *node) put(topic pubsub.Topic, data string) pubsub.Version {
	n.t.Helper()
	v, err := n.Put(ctxFor(n.t), retainedMessage(topic, data))()
	if err != nil {
		n.t.Fatalf("Put(%q, %q): %v", topic, data, err)
	}
	return v
}

// putAgain is put, which is tried again while the backplane is unavailable.
func (n *node) putAgain(topic pubsub.Topic, data string) (v pubsub.Version) {
	n.t.Helper()
	eventually(n.t, "that a message is stored", func() bool {
		var err error
		if v, err = n.Put(ctxFor(n.t), retainedMessage(topic, data))(); err != nil && !errors.Is(err, pubsub.ErrUnavailable) {
			n.t.Fatalf("Put(%q, %q): %v", topic, data, err)
		}
		return err == nil
	})
	return v
}

// last returns the newest retained message that was delivered.
func (n *node) last(topic pubsub.Topic) (m pubsub.Message, ok bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := n.got[topic]
	if len(l) == 0 {
		return pubsub.Message{}, false
	}
	return l[len(l)-1], true
}

func (n *node) count(topic pubsub.Topic) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.got[topic])
}

// ends waits until the newest that was delivered of a topic is data, of version v
// unless that is zero.
func (n *node) ends(topic pubsub.Topic, data string, v pubsub.Version) {
	n.t.Helper()
	eventually(n.t, fmt.Sprintf("%q of topic %q, version %v", data, topic, v), func() bool {
		m, ok := n.last(topic)
		return ok && string(m.Data) == data && (v.IsZero() || m.Version == v)
	})
}

// neverBack checks that the versions that were delivered of each topic only grow
// within a generation, and that no generation comes back.
func (n *node) neverBack() {
	n.t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	for topic, l := range n.got {
		var prev pubsub.Version
		past := map[uint64]bool{}
		for _, m := range l {
			if m.Version.IsZero() {
				continue
			}
			if m.Version.Generation != prev.Generation {
				past[prev.Generation] = true
				if past[m.Version.Generation] {
					n.t.Errorf("topic %q: generation %x came back", topic, m.Version.Generation)
				}
			} else if m.Version.Seq <= prev.Seq {
				n.t.Errorf("topic %q: version %v after %v", topic, m.Version, prev)
			}
			prev = m.Version
		}
	}
}

// newProxy starts a proxy between nodes and s.
func newProxy(t testing.TB, s *natsServer) *testkit.Proxy {
	t.Helper()
	return testkit.NewProxy(t, strings.TrimPrefix(s.url(), "nats://"))
}

// natsURL returns the URL of the server behind p.
func natsURL(p *testkit.Proxy) string { return "nats://" + p.Addr() }

// settled waits until nothing is to be looked at for a second time, and the sweeper
// is idle: a sweep that was asked for now has come to the end of the stream.
func (n *node) settled() {
	n.t.Helper()
	eventually(n.t, "the second look", func() bool {
		n.bus.interest.mu.Lock()
		defer n.bus.interest.mu.Unlock()
		return len(n.bus.interest.again) == 0
	})
	asked := "test " + strconv.FormatUint(settlings.Add(1), 10)
	eventually(n.t, "a sweep", func() bool {
		n.bus.sweeper.kick(asked)
		return within(10*time.Second, func() bool { // another cause may have taken its place
			why := n.swept.Load()
			return why != nil && *why == asked
		})
	})
}

var settlings atomic.Uint64 // tells one settled from another
