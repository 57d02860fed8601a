package nats

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"pubsub"
	"pubsub/internal/testkit"
)

// A thousand goroutines subscribe to topics of a node and read them, with few round trips. Each
// topic works, and its subscription ends after the last Unsubscribe.
func TestManyTopics(t *testing.T) {
	t.Parallel()
	topics, goroutines := 20_000, 1000
	if testkit.Long() {
		topics = 100_000
	}
	s := newServer(t)
	n := newNode(t, Options{URLs: []string{s.url()}, SyncInterval: time.Hour, Linger: 10 * time.Millisecond})
	n.put("first", "x")
	subscriptions := s.Running.NumSubscriptions()
	topic := func(i int) pubsub.Topic { return pubsub.Topic(fmt.Sprintf("device/%d/state", i)) }
	requests := n.client.nc.Stats().OutMsgs
	var wg sync.WaitGroup
	began := time.Now()
	for k := range goroutines {
		wg.Go(func() {
			for i := k; i < topics; i += goroutines {
				if err := n.Subscribe(testContext(t), topic(i)); err != nil {
					t.Error(err)
					return
				}
				if _, _, err := n.Last(testContext(t), topic(i), pubsub.Version{}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	requests = n.client.nc.Stats().OutMsgs - requests
	t.Logf("%d topics in %v with %d requests", topics, time.Since(began), requests)
	if requests > uint64(topics)/20 {
		t.Errorf("%d requests for %d topics", requests, topics)
	}
	if got := n.Stats().Subscribed; got != topics {
		t.Errorf("%d topics are subscribed to, want %d", got, topics)
	}
	for _, i := range []int{0, 1, topics / 2, topics - 1} {
		n.publishTo(n, topic(i), "x")
	}
	for i := range topics {
		n.Unsubscribe(topic(i))
	}
	testkit.Eventually(t, "no subscription", func() bool {
		return n.Stats().Subscribed == 0 && s.Running.NumSubscriptions() <= subscriptions
	})
}

// A node receives messages only of the topics that it is subscribed to.
func TestInterest(t *testing.T) {
	t.Parallel()
	url := newServer(t).url()
	a := newNode(t, Options{URLs: []string{url}})
	b := newNode(t, Options{URLs: []string{url}, Linger: time.Millisecond, SyncInterval: time.Hour})
	a.put("never", "x")
	b.subscribe("t", "t")
	b.Unsubscribe("t")
	a.publishTo(b, "t", "one")
	b.Unsubscribe("t")
	testkit.Eventually(t, "the end of the subscription", func() bool { return b.Stats().Subscribed == 0 })
	a.put("t", "not delivered")
	b.subscribe("t")
	a.publishTo(b, "t", "two")
	if never, count := b.count("never"), b.count("t"); never != 0 || count != 2 {
		t.Errorf("%d and %d messages were delivered, want 0 and 2", never, count)
	}
}

// A subscription that lingers is used again without a request.
func TestLinger(t *testing.T) {
	t.Parallel()
	n := newNode(t, Options{URLs: []string{newServer(t).url()}, Linger: time.Hour, SyncInterval: time.Hour, settleTime: time.Hour})
	n.subscribe("t")
	n.Unsubscribe("t")
	requests := n.client.nc.Stats().OutMsgs
	n.subscribe("t")
	if now := n.client.nc.Stats().OutMsgs; now != requests {
		t.Errorf("%d requests for a topic that lingers, want 0", now-requests)
	}
	n.publishTo(n, "t", "x")
}

func TestUnsubscribeWithoutSubscribe(t *testing.T) {
	t.Parallel()
	n := newNode(t, Options{URLs: []string{newServer(t).url()}})
	n.subscribe("t")
	n.Unsubscribe("t")
	for _, topic := range []pubsub.Topic{"t", "never"} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("Unsubscribe(%q) does not panic", topic)
				}
			}()
			n.Unsubscribe(topic)
		}()
	}
}
