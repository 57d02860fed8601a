package hub

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pubsub"
)

// The store is read for subscriptions in the order of ResumeAndFetch, one piece at a
// time, and not before the subscriber has taken the previous piece.
func TestResumeAndFetch(t *testing.T) {
	for _, concurrency := range []int{1, 4} {
		t.Run(fmt.Sprint(concurrency), func(t *testing.T) {
			const topics = 20
			store := newBackplane()
			h := New(Options{Backplane: store, Shards: 1, FetchConcurrency: concurrency})
			p := newPeer(h, "")
			var want []string
			for i := range topics {
				topic := pubsub.Topic(fmt.Sprintf("t%02d", topics-i)) // not in byte order
				store.retain(pubsub.Message{
					Topic: topic, Data: []byte(strings.Repeat(string(topic), 1000)), Retain: true,
					Version: pubsub.Version{Generation: gen, Seq: uint64(i + 1)},
				})
				p.subscribe(t, topic).ResumeAndFetch(pubsub.Version{})
				want = append(want, string(topic))
			}
			store.lastCalls.Store(0)
			var got []string
			for len(got) < topics {
				if !p.isAwake() {
					t.Fatalf("asleep after %d topics", len(got))
				}
				for asleep := false; !asleep; { // until the next step must read the store
					if n := int(store.lastCalls.Load()) - len(got); concurrency == 1 && n > maxPiece/3000+1 {
						t.Fatalf("%d messages are read ahead of the subscriber", n)
					}
					var ds []Delivery
					ds, asleep = p.Read(make([]Delivery, 0, 8), 0, time.Now())
					for _, d := range ds {
						if !d.Initial {
							t.Error("a fetched message is not marked as initial")
						}
						got = append(got, string(d.Sub.Topic()))
					}
				}
				h.fetches.goroutines.Wait()
				h.check(t)
			}
			if n := store.lastCalls.Load(); n > 2*topics {
				t.Errorf("the store is read %d times", n)
			}
			if !slices.Equal(got, want) {
				t.Errorf("order %v, want %v", got, want)
			}
			p.Close()
			h.recent.clear(&h.backlog)
			h.checkEmpty(t)
		})
	}
}

// A fetched message is delivered at its position among the live messages. A message that
// the client already has is not delivered.
func TestFetchKeepsOrder(t *testing.T) {
	began := time.Now()
	message := func(data string, seq uint64, age time.Duration) pubsub.Message {
		m := pubsub.Message{Topic: "t", Data: []byte(data), Published: began.Add(-age)}
		if seq > 0 {
			m.Retain, m.Version = true, pubsub.Version{Generation: gen, Seq: seq}
		}
		return m
	}
	for _, c := range []struct {
		name      string
		stored    pubsub.Message
		published []pubsub.Message
		has       uint64
		want      string
	}{
		{"old", message("r1", 1, time.Hour), []pubsub.Message{message("a", 0, 0)}, 0, "*r1 a"},
		{"live", message("r2", 2, 0), []pubsub.Message{message("a", 0, 0), message("r2", 2, 0), message("b", 0, 0)}, 0, "a *r2 b"},
		{"replaced", message("r1", 1, time.Hour), []pubsub.Message{message("a", 0, 0), message("r2", 2, 0)}, 0, "*r1 a r2"},
		{"nothing newer", message("r1", 1, time.Hour), []pubsub.Message{message("a", 0, 0)}, 1, "a"},
		{"newer", message("r2", 2, time.Hour), []pubsub.Message{message("a", 0, 0)}, 1, "r2 a"},
	} {
		t.Run(c.name, func(t *testing.T) {
			store := newBackplane()
			h := New(Options{Backplane: store, Shards: 1})
			p := newPeer(h, "")
			s := p.subscribe(t, "t")
			var has pubsub.Version
			if c.has > 0 {
				has = pubsub.Version{Generation: gen, Seq: c.has}
			}
			store.retain(c.stored)
			s.ResumeAndFetch(has)
			for _, m := range c.published {
				h.Deliver(pubsub.NewPreparedMessage(m))
			}
			h.pump()
			expect(t, drainAll(h, p), c.want)
			closeAll(t, h, p)
		})
	}
}

// StoreFailed is called if the store cannot be read, unless the subscription has ended
// meanwhile.
func TestFetchFails(t *testing.T) {
	store := newBackplane()
	store.lastErr = errors.New("no disk")
	h := New(Options{Backplane: store, Shards: 1})
	p, leaver := newPeer(h, ""), newPeer(h, "")
	for _, p := range []*peer{p, leaver} {
		p.subscribe(t, "t").ResumeAndFetch(pubsub.Version{})
	}
	leaver.subscribe(t, "other").Resume(nil, pubsub.Version{})
	store.mu.Lock() // the store is being read
	p.drain()
	leaver.drain()
	leaver.Unsubscribe("t")
	store.mu.Unlock()
	h.fetches.goroutines.Wait()
	if p.failed.Load() == nil {
		t.Error("StoreFailed is not called")
	}
	if leaver.failed.Load() != nil {
		t.Error("StoreFailed is called after Unsubscribe")
	}
	deliver(h, "other", "a")
	h.pump()
	expect(t, leaver.drain(), "a")
	closeAll(t, h, p, leaver)
}

// While the store is unavailable, the subscriber waits, even if messages arrive for its other
// topics, and the hub fetches once a second. Then the subscriber gets everything in order.
func TestFetchIsRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newBackplane()
		unavailable := fmt.Errorf("no leader: %w", pubsub.ErrUnavailable)
		var failed atomic.Int32
		h := New(Options{Backplane: store, Shards: 1, FetchFailed: func(err error) {
			failed.Add(1)
			if !errors.Is(err, pubsub.ErrUnavailable) && !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("FetchFailed is called with %v", err)
			}
		}})
		p, leaver := newPeer(h, ""), newPeer(h, "")
		for i, topic := range []pubsub.Topic{"t1", "t2"} {
			store.retain(pubsub.Message{Topic: topic, Data: []byte(topic), Retain: true, Version: pubsub.Version{Generation: gen, Seq: uint64(i + 1)}})
			p.subscribe(t, topic).ResumeAndFetch(pubsub.Version{})
		}
		p.resume(t, "other")
		leaver.subscribe(t, "t1").ResumeAndFetch(pubsub.Version{})
		leaver.resume(t, "other")
		setError := func(err error) {
			store.mu.Lock()
			defer store.mu.Unlock()
			store.lastErr = err
		}
		setError(unavailable)
		expect(t, p.drain(), "")
		expect(t, leaver.drain(), "")
		synctest.Wait()
		deliver(h, "other", "a")
		h.pump()
		expect(t, p.drain(), "")
		if n := failed.Load(); n != 2 {
			t.Errorf("FetchFailed is called %d times, want 2", n)
		}
		leaver.Unsubscribe("t1")
		time.Sleep(fetchRetryDelay)
		synctest.Wait()
		expect(t, leaver.drain(), "a")
		expect(t, p.drain(), "")
		synctest.Wait()
		if n := failed.Load(); n != 3 {
			t.Errorf("after %v, %d fetches have failed, want 3", fetchRetryDelay, n)
		}
		setError(context.DeadlineExceeded)
		time.Sleep(fetchRetryDelay)
		synctest.Wait()
		expect(t, p.drain(), "")
		synctest.Wait()
		setError(nil)
		time.Sleep(fetchRetryDelay)
		synctest.Wait()
		expect(t, drainAll(h, p), "*t1 *t2 a")
		if p.failed.Load() != nil || leaver.failed.Load() != nil {
			t.Error("StoreFailed is called")
		}
		closeAll(t, h, p, leaver)
	})
}

// A hub that ends does not wait for the next attempt of a fetch.
func TestFetchRetryEnds(t *testing.T) {
	store := newBackplane()
	store.lastErr = pubsub.ErrUnavailable
	h := New(Options{Backplane: store, Shards: 1})
	p := newPeer(h, "")
	p.subscribe(t, "t").ResumeAndFetch(pubsub.Version{})
	expect(t, drainAll(h, p), "")
	h.fetches.end()
	h.fetches.retryFailed()
	if p.isAwake() || p.failed.Load() != nil {
		t.Error("the subscriber is woken, or its holder called")
	}
	p.Close()
}

// During a fetch, the subscriber reads nothing, and messages to its other topics do not
// wake it.
func TestNothingIsReadDuringFetch(t *testing.T) {
	store := newBackplane()
	release := make(chan struct{})
	store.onLast = func(context.Context) { <-release }
	h := New(Options{Backplane: store, Shards: 1})
	p := newPeer(h, "")
	p.resume(t, "other")
	p.drain()
	store.retain(retained("t", 1).Message)
	p.subscribe(t, "t").ResumeAndFetch(pubsub.Version{})
	if ds := p.drain(); len(ds) != 0 {
		t.Fatalf("delivered %q during the fetch", render(ds))
	}
	deliver(h, "other", "a b")
	wakes := p.wakes.Load()
	h.pump()
	if p.wakes.Load() != wakes || p.isAwake() {
		t.Error("woken during the fetch")
	}
	p.Notify() // for example to send a control packet
	if ds := p.drain(); len(ds) != 0 {
		t.Errorf("delivered %q during the fetch", render(ds))
	}
	close(release)
	h.fetches.goroutines.Wait()
	expect(t, drainAll(h, p), "*r1 a b")
	closeAll(t, h, p)
}

// Run cancels a pending read of the store instead of waiting for it.
func TestRunEndsDuringFetch(t *testing.T) {
	store := newBackplane()
	reading := make(chan struct{})
	store.onLast = func(ctx context.Context) { close(reading); <-ctx.Done() }
	h := New(Options{Backplane: store, Shards: 1, SubscribeTimeout: time.Hour})
	p := newPeer(h, "")
	p.subscribe(t, "t").ResumeAndFetch(pubsub.Version{})
	p.drain()
	<-reading
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	h.Run(ctx)
}
