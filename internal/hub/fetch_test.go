package hub

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pubsub"
)

// Late subscriptions are read from the store when the member reads, in the order in
// which they were opened, a piece at a time; nothing else is read for it meanwhile.
func TestResumeAndFetch(t *testing.T) {
	for _, atOnce := range []int{1, 4} {
		t.Run(fmt.Sprint(atOnce, " at once"), func(t *testing.T) {
			const topics = 20
			plane := newBackplane()
			h := New(Options{Backplane: plane, Shards: 1, FetchConcurrency: atOnce})
			p := newPeer(h, "")
			var want []string
			for i := range topics {
				topic := pubsub.Topic(fmt.Sprintf("t%02d", topics-i)) // not in byte order
				plane.retain(pubsub.Message{
					Topic: topic, Data: []byte(strings.Repeat(string(topic), 1000)), Retain: true,
					Version: pubsub.Version{Generation: gen, Seq: uint64(i + 1)},
				})
				p.subscribe(t, topic).ResumeAndFetch(pubsub.Version{})
				want = append(want, string(topic))
			}
			plane.lastCalls.Store(0)
			var got []string
			for len(got) < topics {
				if !p.isAwake() {
					t.Fatalf("asleep after %d topics", len(got))
				}
				for asleep := false; !asleep; { // up to where the store must be read
					if n := int(plane.lastCalls.Load()) - len(got); atOnce == 1 && n > maxPiece/3000+1 {
						t.Fatalf("%d messages are read that the member has not taken", n)
					}
					var ds []Delivery
					ds, asleep = p.Read(make([]Delivery, 0, 8), 0, time.Now())
					for _, d := range ds {
						if !d.Initial {
							t.Error("what is retained is not marked as that")
						}
						got = append(got, string(d.Sub.Topic()))
					}
				}
				h.fetches.goroutines.Wait()
				h.check(t)
			}
			if n := plane.lastCalls.Load(); n > 2*topics {
				t.Errorf("the store is read %d times", n)
			}
			if !slices.Equal(got, want) {
				t.Errorf("they come as %v, want %v", got, want)
			}
			p.Close()
			h.recent.clear(&h.backlog)
			h.checkEmpty(t)
		})
	}
}

// The message that a late subscription finds in the store is delivered in its place among
// later messages. Nothing older than the client's version is delivered.
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
			plane := newBackplane()
			h := New(Options{Backplane: plane, Shards: 1})
			p := newPeer(h, "")
			s := p.subscribe(t, "t")
			var has pubsub.Version
			if c.has > 0 {
				has = pubsub.Version{Generation: gen, Seq: c.has}
			}
			plane.retain(c.stored)
			s.ResumeAndFetch(has)
			for _, m := range c.published {
				h.Deliver(pubsub.NewPreparedMessage(m))
			}
			h.pump()
			expect(t, drainAll(h, p), c.want)
			p.Close()
			h.checkEmpty(t)
		})
	}
}

// A member for which the store cannot be read is ended by its holder; one that left
// meanwhile is not.
func TestFetchFails(t *testing.T) {
	plane := newBackplane()
	plane.lastErr = errors.New("no disk")
	h := New(Options{Backplane: plane, Shards: 1})
	p, left := newPeer(h, ""), newPeer(h, "")
	for _, p := range []*peer{p, left} {
		p.subscribe(t, "t").ResumeAndFetch(pubsub.Version{})
	}
	left.subscribe(t, "other").Resume(nil, pubsub.Version{})
	plane.mu.Lock() // the store is being read
	p.drain()
	left.drain()
	left.Unsubscribe("t")
	plane.mu.Unlock()
	h.fetches.goroutines.Wait()
	if p.failed.Load() == nil {
		t.Error("the holder is not told")
	}
	if left.failed.Load() != nil {
		t.Error("the holder of one that has left the topic is told")
	}
	deliver(h, "other", "a")
	h.pump()
	expect(t, left.drain(), "a")
	p.Close()
	left.Close()
	h.checkEmpty(t)
}

// While the store is read for a member, nothing else is read for it, and messages to
// its other topics do not wake it.
func TestNothingIsReadDuringFetch(t *testing.T) {
	plane := newBackplane()
	goOn := make(chan struct{})
	plane.onLast = func(context.Context) { <-goOn }
	h := New(Options{Backplane: plane, Shards: 1})
	p := newPeer(h, "")
	p.resume(t, "other")
	p.drain()
	plane.retain(retained("t", 1).Message)
	p.subscribe(t, "t").ResumeAndFetch(pubsub.Version{})
	if ds := p.drain(); len(ds) != 0 {
		t.Fatalf("%q is delivered", render(ds))
	}
	deliver(h, "other", "a b")
	wakes := p.wakes.Load()
	h.pump()
	if p.wakes.Load() != wakes || p.isAwake() {
		t.Error("it is woken")
	}
	p.Notify() // it may have other things to do
	if ds := p.drain(); len(ds) != 0 {
		t.Errorf("%q is delivered", render(ds))
	}
	close(goOn)
	h.fetches.goroutines.Wait()
	expect(t, drainAll(h, p), "*r1 a b")
	p.Close()
	h.checkEmpty(t)
}

// The end of the hub does not wait for a store that does not answer.
func TestRunEndsDuringFetch(t *testing.T) {
	plane := newBackplane()
	reading := make(chan struct{})
	plane.onLast = func(ctx context.Context) { close(reading); <-ctx.Done() }
	h := New(Options{Backplane: plane, Shards: 1, SubscribeTimeout: time.Hour})
	p := newPeer(h, "")
	p.subscribe(t, "t").ResumeAndFetch(pubsub.Version{})
	p.drain()
	<-reading
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	h.Run(ctx)
}
