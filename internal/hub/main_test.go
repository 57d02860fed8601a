package hub

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"pubsub"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// seeded returns a source of random numbers whose seed is in the test's log.
func seeded(t testing.TB) *rand.Rand {
	t.Helper()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, seed))
}

// plane is a backplane that counts what it is asked, and answers as told.
type plane struct {
	want func(ctx context.Context, t pubsub.Topic) error // nil: succeed at once

	mu    sync.Mutex
	wants map[pubsub.Topic]int // successful ones
	drops map[pubsub.Topic]int
	last  map[pubsub.Topic]pubsub.Message
	asked atomic.Int64          // calls to Subscribe
	reads atomic.Int64          // calls to Last
	wait  func(context.Context) // of Last, if not nil
	err   error                 // of Last
}

func newPlane() *plane {
	return &plane{
		wants: make(map[pubsub.Topic]int),
		drops: make(map[pubsub.Topic]int),
		last:  make(map[pubsub.Topic]pubsub.Message),
	}
}

func (p *plane) Subscribe(ctx context.Context, t pubsub.Topic) error {
	p.asked.Add(1)
	if p.want != nil {
		if err := p.want(ctx, t); err != nil {
			return err
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wants[t]++
	return nil
}

func (p *plane) Unsubscribe(t pubsub.Topic) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.drops[t]++
}

func (p *plane) Last(ctx context.Context, t pubsub.Topic, after pubsub.Version) (pubsub.Message, bool, error) {
	p.reads.Add(1)
	if p.wait != nil {
		p.wait(ctx)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	m, ok := p.last[t]
	if p.err != nil || !ok || !m.Version.Newer(after) {
		return pubsub.Message{Version: after}, false, p.err
	}
	return m, true, nil
}

// counts returns how often t was wanted with success, and dropped.
func (p *plane) counts(t pubsub.Topic) (wants, drops int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.wants[t], p.drops[t]
}

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
	p.Subscriber = newMember(h, p, name)
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

func (p *peer) subscribe(t testing.TB, topic pubsub.Topic) *Subscription {
	t.Helper()
	s, err := p.Subscribe(context.Background(), topic, SubscriptionOptions{})
	if err != nil {
		t.Fatalf("Subscribe(%q): %v", topic, err)
	}
	return s
}

// open subscribes and opens.
func (p *peer) open(t testing.TB, topic pubsub.Topic) *Subscription {
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

func plain(topic pubsub.Topic, data string) *pubsub.PreparedMessage {
	return pubsub.NewPreparedMessage(pubsub.Message{Topic: topic, Data: []byte(data)})
}

func retained(topic pubsub.Topic, seq uint64) *pubsub.PreparedMessage {
	return pubsub.NewPreparedMessage(pubsub.Message{
		Topic: topic, Data: fmt.Appendf(nil, "r%d", seq), Retain: true,
		Version: pubsub.Version{Generation: gen, Seq: seq},
	})
}

// show writes deliveries as text: the data, "*" before it if initial, and "-N"
// before that where N were dropped.
func show(ds []Delivery) string {
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
	if got := show(ds); got != want {
		t.Errorf("delivered %q, want %q", got, want)
	}
}

// check verifies what must hold of every log whenever nobody is at work.
func (h *Hub) check(t testing.TB) {
	t.Helper()
	var sum int64
	kept := make(map[*pubsub.PreparedMessage]bool) // in a log, or for a member
	for _, p := range h.recent.messages {
		kept[p] = true
	}
	for i := range h.index.stripes {
		for name, tp := range h.index.stripes[i].topics {
			joins := 0
			for l := tp.logs; l != nil; l = l.nextLog {
				joins += len(l.subscriptions)
				sum += int64(len(l.entries)) * entrySize
				if l.newest != nil {
					kept[l.newest] = true
				}
				bytes, atEnd, ordinal := 0, 0, l.plainBefore(l.base)
				for _, e := range l.entries {
					bytes += cost(e.msg)
					kept[e.msg] = true
					if e.plainBefore != ordinal {
						t.Fatalf("%s: entry has ordinal %d, want %d", name, e.plainBefore, ordinal)
					}
					if !e.msg.Retain {
						ordinal++
					}
				}
				for i, s := range l.subscriptions {
					if int(s.index) != i || s.log != l {
						t.Fatalf("%s: member %d believes to be %d", name, i, s.index)
					}
					if s.pos == l.end() {
						atEnd++
					}
					if s.initial != nil {
						kept[s.initial.msg] = true
					}
				}
				if bytes != l.bytes || atEnd != int(l.atEnd) || ordinal != l.plainTotal || int(l.walkLeft) > len(l.subscriptions) {
					t.Fatalf("%s: bytes %d, counted %d; at end %d, counted %d; ordinal %d, counted %d; to wake %d of %d",
						name, l.bytes, bytes, l.atEnd, atEnd, l.plainTotal, ordinal, l.walkLeft, len(l.subscriptions))
				}
				if len(l.subscriptions) == 0 {
					t.Fatalf("%s: a log without members is kept", name)
				}
				if int(l.atEnd) == len(l.subscriptions) && (len(l.entries) > 0 || l.newest != nil) {
					t.Fatalf("%s: all have read everything and the log is not empty", name)
				}
			}
			if joins != tp.joins {
				t.Fatalf("%s: %d joins, counted %d", name, tp.joins, joins)
			}
		}
	}
	for p := range kept {
		sum += p.Size()
	}
	if b := h.backlog.bytes.Load(); b != sum {
		t.Fatalf("backlog of %d bytes, counted %d", b, sum)
	}
}

// checkEmpty verifies that nothing is left of members that have all left.
func (h *Hub) checkEmpty(t testing.TB) {
	t.Helper()
	h.check(t)
	st := h.Stats()
	if st.Subscribers != 0 || st.Subscriptions != 0 || st.BacklogBytes != 0 {
		t.Errorf("after all have left: %+v", st)
	}
	for i := range h.index.stripes {
		if n := len(h.index.stripes[i].topics); n != 0 {
			t.Errorf("after all have left a stripe has %d topics", n)
		}
	}
	for _, s := range h.shards {
		for i, m := range s.wheel.slots {
			if m != nil {
				t.Errorf("slot %d of a wheel has a member that has left", i)
			}
		}
	}
}

// newMember returns a member that lies by itself.
func newMember(h *Hub, holder Holder, name string) *Subscriber {
	m := new(Subscriber)
	h.Add(m, holder, name)
	return m
}
