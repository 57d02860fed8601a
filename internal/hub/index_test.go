package hub

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pubsub"
)

// awaitJoins returns once n subscribers have joined topic or are joining it.
func awaitJoins(t testing.TB, h *Hub, topic pubsub.Topic, n int) {
	t.Helper()
	for {
		if got := h.Topics(string(topic), "", 1); len(got) == 1 && got[0].Subscribers == n {
			return
		}
		runtime.Gosched()
	}
}

// The hub subscribes to a topic when its first subscriber joins, and unsubscribes when
// the last one leaves, across all shards.
func TestBackplaneSubscribeAndUnsubscribe(t *testing.T) {
	b := newBackplane()
	h := New(Options{Backplane: b, Shards: 4})
	for round := 1; round <= 3; round++ {
		var peers []*peer
		for range 10 {
			p := newPeer(h, "")
			p.resume(t, "t")
			p.resume(t, "u")
			peers = append(peers, p)
		}
		b.expectCalls(t, "t", round, round-1)
		for _, p := range peers[1:] {
			p.Close()
		}
		b.expectCalls(t, "t", round, round-1)
		h.Deliver(plain("t", "a"))
		h.pump()
		expect(t, peers[0].drain(), "a")
		peers[0].Unsubscribe("t")
		b.expectCalls(t, "t", round, round)
		b.expectCalls(t, "u", round, round-1)
		peers[0].Close()
	}
	h.checkEmpty(t)
}

// joiners makes n subscribers subscribe to topic t concurrently. It calls meanwhile once
// all of them wait, and returns the results.
func joiners(t *testing.T, h *Hub, ctx context.Context, n int, meanwhile func()) ([]*peer, []error) {
	peers, errs := make([]*peer, n), make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		peers[i] = newPeer(h, "")
		wg.Go(func() { _, errs[i] = peers[i].Subscribe(ctx, "t", SubscriptionOptions{}) })
	}
	awaitJoins(t, h, "t", n)
	meanwhile()
	wg.Wait()
	return peers, errs
}

func TestSubscribeFails(t *testing.T) {
	b := newBackplane()
	h := New(Options{Backplane: b, Shards: 3})
	broken := errors.New("no bus")
	release := make(chan error)
	b.onSubscribe = func(context.Context, pubsub.Topic) error { return <-release }
	peers, errs := joiners(t, h, t.Context(), 8, func() { release <- broken })
	for _, err := range errs {
		if !errors.Is(err, broken) {
			t.Errorf("Subscribe: %v", err)
		}
	}
	b.expectCalls(t, "t", 0, 0)
	if n := b.subscribeCalls.Load(); n != 1 {
		t.Errorf("Subscribe is called %d times, want once", n)
	}
	if len(h.Topics("", "", 10)) != 0 {
		t.Error("the topic still exists")
	}
	// The next join tries again.
	b.onSubscribe = nil
	for _, p := range peers {
		p.resume(t, "t")
	}
	b.expectCalls(t, "t", 1, 0)
	closeAll(t, h, peers...)
	b.expectCalls(t, "t", 1, 1)
}

// A second attempt may begin before all joins have seen that the first has failed. Each
// successful Subscribe still gets one Unsubscribe.
func TestSubscribeFailsWhileOthersJoin(t *testing.T) {
	b := newBackplane()
	h := New(Options{Backplane: b, Shards: 3})
	broken := errors.New("no bus")
	var odd atomic.Int64
	b.onSubscribe = func(context.Context, pubsub.Topic) error {
		if odd.Add(1)%2 == 1 {
			return broken
		}
		return nil
	}
	for range 300 {
		var wg sync.WaitGroup
		for range 6 {
			wg.Go(func() {
				p := newPeer(h, "")
				for range 3 {
					_, err := p.Subscribe(t.Context(), "t", SubscriptionOptions{})
					if err != nil && !errors.Is(err, broken) {
						t.Errorf("Subscribe: %v", err)
					}
					p.Unsubscribe("t")
				}
				p.Close()
			})
		}
		wg.Wait()
		if s, u := b.counts("t"); s != u {
			t.Fatalf("%d Subscribes, %d Unsubscribes", s, u)
		}
	}
	h.checkEmpty(t)
}

// A join whose context ends does not wait any longer, unless it was the first. The other
// joins get their result.
func TestSubscribeCancelled(t *testing.T) {
	b := newBackplane()
	h := New(Options{Backplane: b})
	release := make(chan struct{})
	b.onSubscribe = func(ctx context.Context, _ pubsub.Topic) error {
		select {
		case <-release:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	var first, second, third error
	var wg sync.WaitGroup
	peers := []*peer{newPeer(h, ""), newPeer(h, ""), newPeer(h, "")}
	wg.Go(func() { _, first = peers[0].Subscribe(ctx, "t", SubscriptionOptions{}) })
	awaitJoins(t, h, "t", 1)
	wg.Go(func() { _, second = peers[1].Subscribe(t.Context(), "t", SubscriptionOptions{}) })
	awaitJoins(t, h, "t", 2)
	gone := make(chan struct{})
	go func() { _, third = peers[2].Subscribe(ctx, "t", SubscriptionOptions{}); close(gone) }()
	awaitJoins(t, h, "t", 3)
	cancel()
	<-gone
	if !errors.Is(third, context.Canceled) {
		t.Errorf("Subscribe with a cancelled context: %v", third)
	}
	awaitJoins(t, h, "t", 2)
	close(release)
	wg.Wait()
	if first != nil || second != nil {
		t.Errorf("the other Subscribes: %v, %v", first, second)
	}
	closeAll(t, h, peers...)
	b.expectCalls(t, "t", 1, 1)
}

// All joins but the first are cancelled, then the backplane's Subscribe fails.
func TestSubscribeCancelledAndFails(t *testing.T) {
	b := newBackplane()
	h := New(Options{Backplane: b})
	release := make(chan error)
	b.onSubscribe = func(context.Context, pubsub.Topic) error { return <-release }
	ctx, cancel := context.WithCancel(t.Context())
	_, errs := joiners(t, h, ctx, 5, func() {
		cancel()
		awaitJoins(t, h, "t", 1)
		release <- pubsub.ErrUnavailable
	})
	unavailable := 0
	for _, err := range errs {
		if errors.Is(err, pubsub.ErrUnavailable) {
			unavailable++
		} else if !errors.Is(err, context.Canceled) {
			t.Errorf("Subscribe: %v", err)
		}
	}
	if unavailable != 1 {
		t.Errorf("%d joins returned ErrUnavailable, want only the first", unavailable)
	}
	b.expectCalls(t, "t", 0, 0)
	if n := len(h.Topics("", "", 9)); n != 0 {
		t.Errorf("%d topics are left", n)
	}
}

// SubscribeTimeout ends a Subscribe even if the caller's context has no deadline.
func TestSubscribeTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackplane()
		h := New(Options{Backplane: b})
		b.onSubscribe = func(ctx context.Context, _ pubsub.Topic) error { <-ctx.Done(); return ctx.Err() }
		start := time.Now()
		_, errs := joiners(t, h, context.Background(), 3, func() {})
		for _, err := range errs {
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("Subscribe: %v", err)
			}
		}
		if d := time.Since(start); d != 5*time.Second {
			t.Errorf("failed after %v, want 5s", d)
		}
	})
}

// A join right after the last subscriber has left: the backplane's Subscribe comes after
// the Unsubscribe.
func TestResubscribe(t *testing.T) {
	b := newBackplane()
	h := New(Options{Backplane: b, Shards: 2})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			p := newPeer(h, "")
			defer p.Close()
			for range 500 {
				p.resume(t, "t")
				// While there is a subscriber, there is one Subscribe more than Unsubscribes.
				if s, u := b.counts("t"); s != u+1 {
					t.Errorf("%d Subscribes, %d Unsubscribes while there is a subscriber", s, u)
				}
				p.Unsubscribe("t")
			}
		})
	}
	wg.Wait()
	if s, u := b.counts("t"); s != u {
		t.Errorf("%d Subscribes, %d Unsubscribes in the end", s, u)
	}
	h.checkEmpty(t)
}
