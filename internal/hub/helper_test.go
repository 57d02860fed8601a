package hub

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"pubsub"
)

// peer is a subscriber whose test calls Read. As a holder it only counts the calls of
// Wake.
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

// isAwake reports whether the hub expects the holder to call Read.
func (p *peer) isAwake() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.awake
}

// drain reads until p is asleep, if it is awake.
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

// drainAll reads until p is asleep and no fetch is pending.
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

// resume subscribes to topic and resumes the subscription.
func (p *peer) resume(t testing.TB, topic pubsub.Topic) *Subscription {
	t.Helper()
	s := p.subscribe(t, topic)
	s.Resume(nil, pubsub.Version{})
	return s
}

// oneSubscriber returns a hub of one shard, and its only subscriber, which has resumed its
// subscription to topic t and is asleep. The default backplane is a new one.
func oneSubscriber(t testing.TB, o Options) (*Hub, *peer, *Subscription) {
	t.Helper()
	o.Shards = 1
	if o.Backplane == nil {
		o.Backplane = newBackplane()
	}
	h := New(o)
	p := newPeer(h, "")
	s := p.resume(t, "t")
	p.drain()
	return h, p, s
}

// runner is a subscriber that reads on its own goroutine.
type runner struct {
	*Subscriber
	wake          chan struct{}
	yield         bool           // call runtime.Gosched before each Read
	onWake        func()         // if not nil, called by the goroutine of run
	onDelivery    func(Delivery) // if not nil, called by the goroutine of run
	onStoreFailed func(error)    // if not nil, called by any goroutine
}

func (r *runner) Wake() { r.wake <- struct{}{} } // a bug that wakes twice blocks here

func (r *runner) StoreFailed(err error) {
	if r.onStoreFailed != nil {
		r.onStoreFailed(err)
	}
}

func (r *runner) DeadlineReached() { r.Notify() }

func (r *runner) init(h *Hub) {
	r.wake = make(chan struct{}, 1)
	r.Subscriber = newSubscriber(h, r, "")
}

func newRunner(h *Hub) *runner {
	r := new(runner)
	r.init(h)
	return r
}

func (r *runner) run(ctx context.Context) {
	dst := make([]Delivery, 0, 8)
	for {
		select {
		case <-r.wake:
		case <-ctx.Done():
			return
		}
		if r.onWake != nil {
			r.onWake()
		}
		for asleep := false; !asleep; {
			if r.yield {
				runtime.Gosched()
			}
			var ds []Delivery
			ds, asleep = r.Read(dst, 0, time.Now())
			if r.onDelivery != nil {
				for _, d := range ds {
					r.onDelivery(d)
				}
			}
		}
	}
}

// pump does the work of the shards' goroutines until there is none.
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

// room returns a SubscriberBuffer for n messages of a few bytes. n must be at most 15.
func room(n int) int { return n * (entryOverhead + 8) }

// parse makes a message of each word of script: "rN" is a retained message of version N,
// any other word a plain one.
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

// deliver delivers the messages of script.
func deliver(h *Hub, topic pubsub.Topic, script string) {
	for _, p := range parse(topic, script) {
		h.Deliver(p)
	}
}

// render returns deliveries as text: the data, after "*" for an initial message, and
// after "-N" if N messages were dropped before.
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

// encode returns an encoder whose result has n bytes.
func encode(n int) func([]byte, *pubsub.Message) []byte {
	return func(dst []byte, _ *pubsub.Message) []byte { return append(dst, make([]byte, n)...) }
}
