package nats

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"pubsub"
)

// A hundred thousand topics are wanted by one node, by many at a time, with few
// round trips; each is heard of, and dropped when nobody wants it.
func TestManyTopics(t *testing.T) {
	const topics, at = 100_000, 1000
	s := newServer(t)
	n := newNode(t, Options{URLs: []string{s.url()}, SyncInterval: time.Hour, Linger: 10 * time.Millisecond, Wait: patience})
	n.put("first", "x")
	subscriptions := s.s.NumSubscriptions()
	topic := func(i int) pubsub.Topic { return pubsub.Topic(fmt.Sprintf("device/%d/state", i)) }
	requests := n.link.nc.Stats().OutMsgs
	var wg sync.WaitGroup
	began := time.Now()
	for k := range at {
		wg.Go(func() {
			for i := k; i < topics; i += at {
				if err := n.Subscribe(ctxFor(t), topic(i)); err != nil {
					t.Error(err)
					return
				}
				if _, _, err := n.Last(ctxFor(t), topic(i), pubsub.Version{}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	requests = n.link.nc.Stats().OutMsgs - requests
	t.Logf("%d topics joined in %v with %d requests", topics, time.Since(began), requests)
	if requests > topics/20 {
		t.Errorf("%d requests for %d topics", requests, topics)
	}
	if got := n.Stats().Subscribed; got != topics {
		t.Errorf("%d topics are wanted, want %d", got, topics)
	}
	for _, i := range []int{0, 1, topics / 2, topics - 1} {
		v := n.put(topic(i), "x")
		n.ends(topic(i), "x", v)
	}
	for i := range topics {
		n.Unsubscribe(topic(i))
	}
	eventually(t, "that all topics are dropped", func() bool {
		return n.Stats().Subscribed == 0 && s.s.NumSubscriptions() <= subscriptions
	})
}

// A node is told only of topics that it wants, and for as long as it does.
func TestInterest(t *testing.T) {
	s := newServer(t)
	a := newNode(t, Options{URLs: []string{s.url()}})
	b := newNode(t, Options{URLs: []string{s.url()}, Linger: time.Millisecond, SyncInterval: time.Hour})
	a.put("unwanted", "x")
	b.want("t", "t")
	b.Unsubscribe("t")
	v := a.put("t", "one")
	b.ends("t", "one", v)
	b.Unsubscribe("t")
	eventually(t, "that the topic is dropped", func() bool { return b.Stats().Subscribed == 0 })
	a.put("t", "unheard")
	b.want("t")
	v = a.put("t", "two")
	b.ends("t", "two", v)
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.got["unwanted"]) != 0 || len(b.got["t"]) != 2 {
		t.Errorf("delivered %d and %d messages, want none and 2", len(b.got["unwanted"]), len(b.got["t"]))
	}
}

// Within its linger a topic that was dropped is wanted again at once.
func TestLinger(t *testing.T) {
	s := newServer(t)
	b := newNode(t, Options{URLs: []string{s.url()}, Linger: time.Hour, SyncInterval: time.Hour})
	b.want("t")
	b.Unsubscribe("t")
	requests := b.link.nc.Stats().OutMsgs
	b.want("t")
	if now := b.link.nc.Stats().OutMsgs; now != requests {
		t.Errorf("%d requests for a topic that lingers", now-requests)
	}
	v := b.put("t", "x")
	b.ends("t", "x", v)
}

func TestDropWithoutWant(t *testing.T) {
	s := newServer(t)
	b := newNode(t, Options{URLs: []string{s.url()}})
	b.want("t")
	b.Unsubscribe("t")
	for _, topic := range []pubsub.Topic{"t", "never"} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("Unsubscribe(%q) without Subscribe does not panic", topic)
				}
			}()
			b.Unsubscribe(topic)
		}()
	}
}
