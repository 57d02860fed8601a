package hub

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"pubsub"
)

// peer is a member that is read by hand. As a holder it only notes that it was
// woken.
type peer struct {
	*Subscriber
	wakes  atomic.Int64
	failed atomic.Pointer[error]
}

func (p *peer) Wake() { p.wakes.Add(1) }

func (p *peer) StoreFailed(err error) { p.failed.Store(&err) }

func (p *peer) DeadlineReached() { p.Notify() }

func newPeer(h *Hub, name string) *peer {
	p := new(peer)
	p.Subscriber = newSubscriber(h, p, name)
	return p
}

// isAwake reports whether the holder owes the hub a Read.
func (p *peer) isAwake() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.awake
}

// drain reads, as a holder would after a Wake, until there is nothing left.
func (p *peer) drain() []Delivery {
	var all []Delivery
	if !p.isAwake() {
		return nil
	}
	for {
		ds, asleep := p.Read(make([]Delivery, 0, 8), 0, time.Now())
		all = append(all, ds...)
		if asleep {
			return all
		}
	}
}

// drainAll is drain, which waits for what is read from the store.
func drainAll(h *Hub, p *peer) (all []Delivery) {
	for {
		all = append(all, p.drain()...)
		h.fetches.goroutines.Wait()
		if !p.isAwake() {
			return all
		}
	}
}

func (p *peer) subscribe(t testing.TB, topic pubsub.Topic) *Subscription {
	t.Helper()
	s, err := p.Subscribe(context.Background(), topic, SubscriptionOptions{})
	if err != nil {
		t.Fatalf("Subscribe(%q): %v", topic, err)
	}
	return s
}

// resume subscribes and opens.
func (p *peer) resume(t testing.TB, topic pubsub.Topic) *Subscription {
	t.Helper()
	s := p.subscribe(t, topic)
	s.Resume(nil, pubsub.Version{})
	return s
}

// pump does the work of the shards' goroutines until none is left.
func (h *Hub) pump() {
	for _, s := range h.shards {
		for s.slice() {
		}
	}
}

const gen = 0xabc

func version(seq uint64) pubsub.Version { return pubsub.Version{Generation: gen, Seq: seq} }

func plain(topic pubsub.Topic, data string) *pubsub.PreparedMessage {
	return pubsub.NewPreparedMessage(pubsub.Message{Topic: topic, Data: []byte(data)})
}

func retained(topic pubsub.Topic, seq uint64) *pubsub.PreparedMessage {
	return pubsub.NewPreparedMessage(pubsub.Message{
		Topic: topic, Data: fmt.Appendf(nil, "r%d", seq), Retain: true,
		Version: pubsub.Version{Generation: gen, Seq: seq},
	})
}

// room is a SubscriberBuffer that has room for n messages of a few bytes; n is at
// most 15.
func room(n int) int { return n * (entryOverhead + 8) }

// parse makes a message of each word of script: "rN" is retained and of version
// N, anything else plain.
func parse(topic pubsub.Topic, script string) (ps []*pubsub.PreparedMessage) {
	for _, w := range strings.Fields(script) {
		var seq uint64
		if n, _ := fmt.Sscanf(w, "r%d", &seq); n == 1 {
			ps = append(ps, retained(topic, seq))
		} else {
			ps = append(ps, plain(topic, w))
		}
	}
	return ps
}

// deliver publishes script.
func deliver(h *Hub, topic pubsub.Topic, script string) {
	for _, p := range parse(topic, script) {
		h.Deliver(p)
	}
}

// render writes deliveries as text: the data, "*" before it if initial, and "-N"
// before that where N were dropped.
func render(ds []Delivery) string {
	out := ""
	for _, d := range ds {
		if out != "" {
			out += " "
		}
		if d.Dropped > 0 {
			out += fmt.Sprintf("-%d", d.Dropped)
		}
		if d.Initial {
			out += "*"
		}
		if d.Message != nil {
			out += string(d.Message.Data)
		}
	}
	return out
}

func expect(t testing.TB, ds []Delivery, want string) {
	t.Helper()
	if got := render(ds); got != want {
		t.Errorf("delivered %q, want %q", got, want)
	}
}

// encode makes an encoding of so many bytes.
func encode(n int) func([]byte, *pubsub.Message) []byte {
	return func(dst []byte, _ *pubsub.Message) []byte { return append(dst, make([]byte, n)...) }
}
