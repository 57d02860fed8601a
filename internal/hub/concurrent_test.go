package hub

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pubsub"
)

// client is a subscriber that reads on its own goroutine and checks its deliveries.
type client struct {
	runner
	gate chan struct{} // if not nil, it reads nothing until this is closed

	// owned by the goroutine of run
	t    *testing.T
	seen map[pubsub.Topic]*account
	left int // number of topics whose last message has not arrived

	done chan struct{} // closed when the last message of each topic has arrived
}

// account records the deliveries of a topic to a client.
type account struct {
	delivered, dropped uint64 // plain messages
	next               map[string]int
	version            uint64
}

// last is the content of the last message of a topic.
const last = "last"

func newClient(t *testing.T, h *Hub, topics []pubsub.Topic) *client {
	c := &client{t: t, done: make(chan struct{}), seen: make(map[pubsub.Topic]*account), left: len(topics)}
	c.init(h)
	c.onDelivery = c.check
	c.onStoreFailed = func(err error) { t.Error(err) }
	for _, topic := range topics {
		c.seen[topic] = &account{next: make(map[string]int)}
	}
	return c
}

func (c *client) join(ctx context.Context) {
	for topic := range c.seen {
		s, err := c.Subscribe(ctx, topic, SubscriptionOptions{})
		if err != nil {
			c.t.Errorf("Subscribe: %v", err)
			return
		}
		s.Resume(nil, pubsub.Version{})
	}
}

func (c *client) run(ctx context.Context) {
	if c.gate != nil {
		select {
		case <-c.gate:
		case <-ctx.Done():
			return
		}
	}
	c.runner.run(ctx)
}

// check records d and checks the order of the messages.
func (c *client) check(d Delivery) {
	topic := d.Sub.Topic()
	a := c.seen[topic]
	a.dropped += d.Dropped
	if d.Message == nil {
		return
	}
	if d.Message.Topic != topic {
		c.t.Errorf("message to %s through the subscription to %s", d.Message.Topic, topic)
	}
	if d.Message.Retain {
		if d.Message.Version.Seq <= a.version {
			c.t.Errorf("%s: version %d after %d", topic, d.Message.Version.Seq, a.version)
		}
		a.version = d.Message.Version.Seq
		if string(d.Message.Data) == last {
			if c.left--; c.left == 0 {
				close(c.done)
			}
		}
		return
	}
	a.delivered++
	var from string
	var n int
	if _, err := fmt.Sscanf(string(d.Message.Data), "%s %d", &from, &n); err != nil {
		c.t.Errorf("content %q: %v", d.Message.Data, err)
	}
	if n < a.next[from] {
		c.t.Errorf("%s: message %d of %s after %d", topic, n, from, a.next[from]-1)
	}
	a.next[from] = n + 1
}

// Fast, slow and stalled subscribers read several topics of several publishers, while
// other subscribers come and go. Each subscriber receives the plain messages in each
// publisher's order, and delivered and dropped messages add up to all. The newest
// retained message reaches all subscribers. No subscriber is left asleep.
func TestConcurrent(t *testing.T) {
	for _, c := range []struct {
		name    string
		buffer  int
		backlog int64
	}{
		{"unlimited", 64 << 20, 1 << 30},
		{"small SubscriberBuffer", 8 << 10, 1 << 30},
		{"small BacklogMemory", 64 << 10, 100 << 10},
	} {
		t.Run(c.name, func(t *testing.T) {
			testConcurrent(t, Options{Shards: 3, SubscriberBuffer: c.buffer, BacklogMemory: c.backlog})
		})
	}
}

func testConcurrent(t *testing.T, o Options) {
	const publishers, messages, subscribers, churners = 3, 400, 60, 4
	topics := []pubsub.Topic{"a", "b", "c", "d"}
	rnd := newRand(t)
	b := newBackplane()
	o.Backplane = b
	h := New(o)
	ctx, cancel := context.WithCancel(t.Context())
	var work sync.WaitGroup
	work.Go(func() { h.Run(ctx) })

	gate := make(chan struct{})
	var clients []*client
	for i := range subscribers {
		mine := []pubsub.Topic{topics[i%4]}
		if i%5 == 0 {
			mine = topics
		}
		c := newClient(t, h, mine)
		switch i % 3 {
		case 1:
			c.yield = true
		case 2:
			c.gate = gate
		}
		c.join(ctx)
		work.Go(func() { c.run(ctx) })
		clients = append(clients, c)
	}

	versions := make([]atomic.Uint64, len(topics))
	var publishing sync.WaitGroup
	for i, topic := range topics {
		for j := range publishers {
			seed := rnd.Uint64()
			publishing.Go(func() {
				rnd := rand.New(rand.NewPCG(seed, 0))
				for n := range messages {
					h.Deliver(pubsub.NewPreparedMessage(pubsub.Message{Topic: topic, Data: fmt.Appendf(nil, "p%d %d %s", j, n, strings.Repeat("x", rnd.IntN(200)))}))
					if n%7 == 0 {
						// Versions may arrive out of order, because publishers run concurrently.
						h.Deliver(retained(topic, versions[i].Add(1)))
					}
				}
			})
		}
	}
	var stop atomic.Bool
	var churning sync.WaitGroup
	for range churners {
		seed := rnd.Uint64()
		churning.Go(func() {
			rnd := rand.New(rand.NewPCG(seed, 0))
			for !stop.Load() {
				churn(t, h, topics, rnd)
			}
		})
	}
	publishing.Wait()
	stop.Store(true)
	churning.Wait()
	for i, topic := range topics {
		p := retained(topic, versions[i].Load()+1)
		p.Data = []byte(last)
		h.Deliver(p)
	}
	if n := h.Stats().BacklogBytes; n > o.BacklogMemory {
		t.Errorf("BacklogBytes = %d", n)
	}
	close(gate)
	for i, c := range clients {
		select {
		case <-c.done:
		case <-time.After(30 * time.Second):
			t.Errorf("subscriber %d has not received the last messages", i)
		}
	}
	cancel()
	work.Wait()

	for i, c := range clients {
		for topic, a := range c.seen {
			if a.delivered+a.dropped != publishers*messages {
				t.Errorf("subscriber %d of %s: %d delivered and %d dropped, want %d in total", i, topic, a.delivered, a.dropped, publishers*messages)
			}
			if a.dropped > 0 && o.SubscriberBuffer > 1<<20 {
				t.Errorf("subscriber %d of %s: %d dropped without a limit", i, topic, a.dropped)
			}
		}
	}
	h.check(t)
	if n := h.Stats().BacklogBytes; n != 0 {
		t.Errorf("BacklogBytes = %d after all have read", n)
	}
	t.Logf("stats %+v", h.Stats())
	closeAll(t, h, clients...)
	for _, topic := range topics {
		b.expectCalls(t, topic, 1, 1)
	}
}

// churn makes a subscriber join, read a little or nothing, and leave in between.
func churn(t *testing.T, h *Hub, topics []pubsub.Topic, rnd *rand.Rand) {
	ctx, cancel := context.WithCancel(t.Context())
	mine := topics[rnd.IntN(2) : 2+rnd.IntN(3)]
	c := newClient(t, h, mine)
	var reading sync.WaitGroup
	if rnd.IntN(3) > 0 {
		reading.Go(func() { c.run(ctx) })
	}
	c.join(ctx)
	for range rnd.IntN(200) {
		runtime.Gosched()
	}
	if rnd.IntN(2) == 0 {
		c.Unsubscribe(mine[0])
		for range rnd.IntN(50) {
			runtime.Gosched()
		}
	}
	c.Close() // while it reads
	cancel()
	reading.Wait()
}

// A subscriber reads on one goroutine, while others subscribe, unsubscribe and resume
// too late.
func TestReadRacesWithLeaving(t *testing.T) {
	h := New(Options{Backplane: newBackplane(), Shards: 2, SubscriberBuffer: room(5)})
	ctx, cancel := context.WithCancel(t.Context())
	var work sync.WaitGroup
	work.Go(func() { h.Run(ctx) })
	work.Go(func() {
		for n := uint64(1); ctx.Err() == nil; n++ {
			h.Deliver(retained("t", n))
			h.Deliver(plain("t", "x"))
			runtime.Gosched()
		}
	})
	var subscribers sync.WaitGroup
	for range 4 {
		subscribers.Go(func() {
			for range 100 {
				p := newRunner(h)
				rctx, stop := context.WithCancel(ctx)
				var reading sync.WaitGroup
				reading.Go(func() { p.run(rctx) })
				for range 10 {
					s, err := p.Subscribe(ctx, "t", SubscriptionOptions{})
					if err != nil {
						t.Errorf("Subscribe: %v", err)
						break
					}
					var opening sync.WaitGroup
					opening.Go(func() { s.Resume(retained("t", 1), pubsub.Version{}) })
					p.Notify()
					p.SetDeadline(time.Now())
					p.Unsubscribe("t")
					opening.Wait()
				}
				p.Close()
				stop()
				reading.Wait()
				if ds, _ := p.Read(make([]Delivery, 0, 4), 0, time.Now()); len(ds) != 0 {
					t.Errorf("Read after Close: %s", render(ds))
				}
			}
		})
	}
	subscribers.Wait()
	cancel()
	work.Wait()
	h.pump()
	h.checkEmpty(t)
}
