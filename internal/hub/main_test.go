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

// newRand returns a source of random numbers whose seed is in the test's log.
func newRand(t testing.TB) *rand.Rand {
	t.Helper()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, seed))
}

// newSubscriber returns a member that lies by itself.
func newSubscriber(h *Hub, holder Holder, name string) *Subscriber {
	m := new(Subscriber)
	h.Add(m, holder, name)
	return m
}

// fakeBackplane is a backplane that counts what it is asked, and answers as told.
type fakeBackplane struct {
	onSubscribe func(ctx context.Context, t pubsub.Topic) error // nil: succeed at once

	mu             sync.Mutex
	subscribed     map[pubsub.Topic]int // successful ones
	unsubscribed   map[pubsub.Topic]int
	retained       map[pubsub.Topic]pubsub.Message
	subscribeCalls atomic.Int64          // calls to Subscribe
	lastCalls      atomic.Int64          // calls to Last
	onLast         func(context.Context) // of Last, if not nil
	lastErr        error                 // of Last
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

// counts returns how often t was wanted with success, and dropped.
func (p *fakeBackplane) counts(t pubsub.Topic) (wants, drops int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.subscribed[t], p.unsubscribed[t]
}

// retain keeps m as its topic's retained message.
func (p *fakeBackplane) retain(m pubsub.Message) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.retained[m.Topic] = m
}
