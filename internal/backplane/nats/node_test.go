package nats

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pubsub"
	"pubsub/internal/testkit"

	"github.com/nats-io/nats.go/jetstream"
)

const patience = testkit.Patience

// testContext returns a context that ends after patience.
func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// open opens a backplane that the test closes. Its calls may take as long as a busy machine
// needs, unless o says otherwise.
func open(t testing.TB, o Options) *Backplane {
	t.Helper()
	o.Wait = cmp.Or(o.Wait, patience)
	if o.Events.Error == nil {
		o.Events.Error = func(event string, err error) { t.Logf("backplane: %s: %v", event, err) }
	}
	b, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// node is a running backplane with the messages that it has delivered.
type node struct {
	*Backplane
	t testing.TB

	control func(pubsub.ControlMessage) []byte // nil: no reply

	// read holds the versions that were read before the subscription to each topic; owned by
	// the test's goroutine.
	read map[pubsub.Topic]pubsub.Version

	rejoined atomic.Int64 // calls of Receiver.Rejoined

	resynced atomic.Pointer[string] // the cause of the last complete resync

	mu        sync.Mutex
	delivered map[pubsub.Topic][]pubsub.Message // guarded by mu: in the order of delivery

	block   atomic.Pointer[chan struct{}] // if set, Deliver waits for it
	arrived atomic.Pointer[chan struct{}] // if set, receives a value for each message
}

// newNode opens a backplane and runs it until the end of the test. Unless o says otherwise, it
// checks the streams only on request after the first time, because tests put them into states
// that it would repair, and servers know of a subscription within 200 ms.
func newNode(t testing.TB, o Options) *node {
	t.Helper()
	n := &node{t: t, delivered: map[pubsub.Topic][]pubsub.Message{}}
	resynced := o.Events.Resynced
	o.Events.Resynced = func(cause string, missed int) {
		if n.bus.resyncer.incomplete == 0 {
			n.resynced.Store(&cause)
		}
		if resynced != nil {
			resynced(cause, missed)
		}
	}
	once := o.checkInterval == 0
	o.checkInterval = cmp.Or(o.checkInterval, time.Hour)
	o.settleTime = cmp.Or(o.settleTime, 200*time.Millisecond)
	checked := make(chan struct{}, 1)
	o.checked = func() { notify(checked) }
	n.Backplane = open(t, o)
	ready := make(chan struct{})
	done := make(chan error, 1)
	go func() {
		done <- n.Run(context.Background(), pubsub.Receiver{
			Ready:    func() { close(ready) },
			Deliver:  n.deliver,
			Rejoined: func(context.Context) { n.rejoined.Add(1) },
			Control: func(m pubsub.ControlMessage) []byte {
				if n.control == nil {
					return nil
				}
				return n.control(m)
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
		t.Fatal("the node is not ready")
	}
	if once { // otherwise it could see the changes that the test makes next
		select {
		case <-checked:
		case <-time.After(patience):
			t.Fatal("the node has not checked the streams")
		}
	}
	return n
}

func (n *node) deliver(pm *pubsub.PreparedMessage) {
	if c := n.block.Load(); c != nil {
		<-*c
	}
	n.mu.Lock()
	n.delivered[pm.Topic] = append(n.delivered[pm.Topic], pm.Message)
	n.mu.Unlock()
	if c := n.arrived.Load(); c != nil {
		*c <- struct{}{}
	}
}

func (n *node) subscribe(topics ...pubsub.Topic) {
	n.t.Helper()
	for _, topic := range topics {
		if err := n.Subscribe(testContext(n.t), topic); err != nil {
			n.t.Fatalf("Subscribe(%q): %v", topic, err)
		}
	}
}

func retainedMessage(topic pubsub.Topic, data string) pubsub.Message {
	return pubsub.Message{Topic: topic, Data: []byte(data), Retain: true, Published: time.Now()}
}

// tryPut publishes a retained message.
func (n *node) tryPut(topic pubsub.Topic, data string) (pubsub.Version, error) {
	return n.Put(testContext(n.t), retainedMessage(topic, data))()
}

// put publishes a retained message, which must succeed.
func (n *node) put(topic pubsub.Topic, data string) pubsub.Version {
	n.t.Helper()
	v, err := n.tryPut(topic, data)
	if err != nil {
		n.t.Fatalf("Put(%q, %q): %v", topic, data, err)
	}
	return v
}

// putEventually is put, again while the backplane is unavailable.
func (n *node) putEventually(topic pubsub.Topic, data string) (v pubsub.Version) {
	n.t.Helper()
	testkit.Eventually(n.t, "a stored message", func() bool {
		var err error
		if v, err = n.tryPut(topic, data); err != nil && !errors.Is(err, pubsub.ErrUnavailable) {
			n.t.Fatalf("Put(%q, %q): %v", topic, data, err)
		}
		return err == nil
	})
	return v
}

// streamConfig returns the settings of the stream of retained messages.
func (n *node) streamConfig() (c jetstream.StreamConfig) {
	n.t.Helper()
	testkit.Eventually(n.t, "the settings of the stream", func() bool {
		info, err := n.stream.info(testContext(n.t))
		if err == nil {
			c = info.Config
		}
		return err == nil
	})
	return c
}

// wantLast checks the result of Last for a client that has version after.
func (n *node) wantLast(topic pubsub.Topic, after pubsub.Version, data string, v pubsub.Version) {
	n.t.Helper()
	m, ok, err := n.Last(testContext(n.t), topic, after)
	if err != nil || !ok || string(m.Data) != data || m.Version != v {
		n.t.Errorf("Last(%q, %v) = %q %v, %v, %v, want %q %v", topic, after, m.Data, m.Version, ok, err, data, v)
	}
}

// wantNone checks that a topic has no retained message.
func (n *node) wantNone(topic pubsub.Topic) {
	n.t.Helper()
	if m, ok, err := n.Last(testContext(n.t), topic, pubsub.Version{}); ok || err != nil {
		n.t.Errorf("Last(%q) = %q, %v, %v, want none", topic, m.Data, ok, err)
	}
}

// last returns the message of a topic that was delivered last.
func (n *node) last(topic pubsub.Topic) (m pubsub.Message, ok bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := n.delivered[topic]
	if len(l) == 0 {
		return pubsub.Message{}, false
	}
	return l[len(l)-1], true
}

// count returns how many messages of topics were delivered.
func (n *node) count(topics ...pubsub.Topic) (messages int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, topic := range topics {
		messages += len(n.delivered[topic])
	}
	return messages
}

// awaitLast waits until the last delivered message of a topic is data, with version v unless
// that is 0.
func (n *node) awaitLast(topic pubsub.Topic, data string, v pubsub.Version) {
	n.t.Helper()
	testkit.Eventually(n.t, fmt.Sprintf("%q of topic %q, version %v", data, topic, v), func() bool {
		m, ok := n.last(topic)
		return ok && string(m.Data) == data && (v.IsZero() || m.Version == v)
	})
}

// publishTo publishes a retained message that another node must deliver.
func (n *node) publishTo(other *node, topic pubsub.Topic, data string) pubsub.Version {
	n.t.Helper()
	v := n.put(topic, data)
	other.awaitLast(topic, data, v)
	return v
}

// awaitHealth waits until Health returns nil.
func (n *node) awaitHealth() {
	n.t.Helper()
	testkit.Eventually(n.t, "health", func() bool { return n.Health(testContext(n.t)) == nil })
}

// awaitDisconnected waits until the node has noticed that its connection is lost.
func (n *node) awaitDisconnected() {
	n.t.Helper()
	testkit.Eventually(n.t, "a lost connection", func() bool { return !n.Stats().Connected })
}

// checkOrder checks that the delivered versions of each topic grow within a generation, and
// that no generation returns.
func (n *node) checkOrder() {
	n.t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	for topic, l := range n.delivered {
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

// awaitResync waits until no read of a topic is scheduled and the resyncer is idle: a resync
// that is requested now has reached the end of the stream.
func (n *node) awaitResync() {
	n.t.Helper()
	testkit.Eventually(n.t, "the reads after subscriptions and connections", func() bool {
		q := n.client.resyncs
		q.mu.Lock()
		defer q.mu.Unlock()
		return !slices.ContainsFunc(q.tasks, func(t task) bool { return t.topics != nil || t.cause == causeSettled })
	})
	cause := "test " + strconv.FormatUint(testResyncs.Add(1), 10)
	testkit.Eventually(n.t, "a resync", func() bool {
		n.client.resyncs.request(cause)
		return testkit.Within(10*time.Second, func() bool { // another resync may have followed it
			last := n.resynced.Load()
			return last != nil && *last == cause
		})
	})
}

var testResyncs atomic.Uint64 // number of calls of awaitResync
