package hub

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"

	"pubsub"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newRand returns a random number generator and logs its seed.
func newRand(t testing.TB) *rand.Rand {
	t.Helper()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, seed))
}

// newSubscriber returns a subscriber that is registered with h.
func newSubscriber(h *Hub, holder Holder, sender string) *Subscriber {
	s := new(Subscriber)
	h.Add(s, holder, sender)
	return s
}

// fakeBackplane is a backplane that counts the calls of its methods.
type fakeBackplane struct {
	onSubscribe func(ctx context.Context, t pubsub.Topic) error // called by Subscribe; nil means success

	mu             sync.Mutex
	subscribed     map[pubsub.Topic]int // number of successful Subscribes
	unsubscribed   map[pubsub.Topic]int
	retained       map[pubsub.Topic]pubsub.Message
	subscribeCalls atomic.Int64          // number of calls of Subscribe
	lastCalls      atomic.Int64          // number of calls of Last
	onLast         func(context.Context) // called by Last, if not nil
	lastErr        error                 // returned by Last
}

func newBackplane() *fakeBackplane {
	return &fakeBackplane{
		subscribed:   make(map[pubsub.Topic]int),
		unsubscribed: make(map[pubsub.Topic]int),
		retained:     make(map[pubsub.Topic]pubsub.Message),
	}
}

func (p *fakeBackplane) Subscribe(ctx context.Context, t pubsub.Topic) error {
	p.subscribeCalls.Add(1)
	if p.onSubscribe != nil {
		if err := p.onSubscribe(ctx, t); err != nil {
			return err
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.subscribed[t]++
	return nil
}

func (p *fakeBackplane) Unsubscribe(t pubsub.Topic) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.unsubscribed[t]++
}

func (p *fakeBackplane) Last(ctx context.Context, t pubsub.Topic, after pubsub.Version) (pubsub.Message, bool, error) {
	p.lastCalls.Add(1)
	if p.onLast != nil {
		p.onLast(ctx)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	m, ok := p.retained[t]
	if p.lastErr != nil || !ok || !m.Version.Newer(after) {
		return pubsub.Message{Version: after}, false, p.lastErr
	}
	return m, true, nil
}

// counts returns the number of successful Subscribes and of Unsubscribes of t.
func (p *fakeBackplane) counts(t pubsub.Topic) (subscribes, unsubscribes int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.subscribed[t], p.unsubscribed[t]
}

// expectCalls checks the number of successful Subscribes and of Unsubscribes of topic.
func (p *fakeBackplane) expectCalls(t testing.TB, topic pubsub.Topic, subscribes, unsubscribes int) {
	t.Helper()
	if s, u := p.counts(topic); s != subscribes || u != unsubscribes {
		t.Errorf("%s: %d Subscribes and %d Unsubscribes, want %d and %d", topic, s, u, subscribes, unsubscribes)
	}
}

// retain makes m the retained message of its topic.
func (p *fakeBackplane) retain(m pubsub.Message) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.retained[m.Topic] = m
}
