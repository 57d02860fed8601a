package backplanetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"pubsub"
)

var busTests = []test{
	{"Deliver", deliver},
	{"SubscribeTwice", subscribeTwice},
	{"DeliverMany", deliverMany},
	{"Publish", publish},
	{"PublishTTL0", publishTTL0},
	{"Broadcast", broadcast},
	{"Gather", gather},
	{"GatherGetsNoReply", gatherGetsNoReply},
	{"ContextDone", busContextDone},
	{"RunEnds", runEnds},
}

// inbox returns a Deliver function and a channel of the messages it receives for topics.
func inbox(topics ...pubsub.Topic) (func(*pubsub.PreparedMessage), <-chan pubsub.Message) {
	c := make(chan pubsub.Message, 10_000)
	return func(p *pubsub.PreparedMessage) {
		for _, topic := range topics { // a bus may deliver other topics, too
			if p.Topic == topic {
				c <- p.Message
			}
		}
	}, c
}

// subscribe subscribes b to topics.
func subscribe(ctx context.Context, t *testing.T, b pubsub.Backplane, topics ...pubsub.Topic) {
	t.Helper()
	for _, topic := range topics {
		if err := b.Subscribe(ctx, topic); err != nil {
			t.Fatalf("Subscribe(%q): %v", topic, err)
		}
	}
}

func send(ctx context.Context, t *testing.T, b pubsub.Backplane, m pubsub.Message) {
	t.Helper()
	if err := b.Send(ctx, m); err != nil {
		t.Fatalf("Send(%q): %v", m.Topic, err)
	}
}

// deliver checks that messages sent after Subscribe has returned arrive unchanged.
func deliver(ctx context.Context, t *testing.T, b pubsub.Backplane) {
	deliver, got := inbox(weirdTopics...)
	running(ctx, t, b, pubsub.Receiver{Deliver: deliver})
	subscribe(ctx, t, b, weirdTopics...)
	for _, topic := range weirdTopics {
		for _, m := range []pubsub.Message{
			{Topic: topic, Data: []byte("hello"), Published: time.Now()},
			{Topic: topic, Published: time.Now()},
			{Topic: topic, Data: []byte("\x00\xff\r\n"), Published: time.Now(), HasTTL: true, TTL: 0,
				Sender: "key\x00sub\xffclient", Properties: []byte("\x01\x01\x26\x00\x01k\x00\x01v")},
		} {
			send(ctx, t, b, m)
			if diff := difference(receive(ctx, t, got, "the message"), m); diff != "" {
				t.Fatalf("sent to %q, delivered message has %s", topic, diff)
			}
		}
	}
	for _, topic := range weirdTopics {
		b.Unsubscribe(topic)
	}
}

// subscribeTwice checks that a topic is subscribed until every Subscribe has been undone.
func subscribeTwice(ctx context.Context, t *testing.T, b pubsub.Backplane) {
	deliver, got := inbox("t")
	running(ctx, t, b, pubsub.Receiver{Deliver: deliver})
	subscribe(ctx, t, b, "t", "t", "u")
	b.Unsubscribe("t")
	b.Unsubscribe("u")
	send(ctx, t, b, pubsub.Message{Topic: "t", Data: []byte("still subscribed"), Published: time.Now()})
	if m := receive(ctx, t, got, "the message"); string(m.Data) != "still subscribed" {
		t.Errorf("delivered %q", m.Data)
	}
	b.Unsubscribe("t")
	subscribe(ctx, t, b, "t")
	send(ctx, t, b, pubsub.Message{Topic: "t", Data: []byte("subscribed again"), Published: time.Now()})
	if m := receive(ctx, t, got, "the message"); string(m.Data) != "subscribed again" {
		t.Errorf("delivered %q", m.Data)
	}
	b.Unsubscribe("t")
}

// deliverMany checks that many messages from concurrent senders all arrive, each once.
func deliverMany(ctx context.Context, t *testing.T, b pubsub.Backplane) {
	const senders, each = 8, 50
	deliver, got := inbox("t")
	running(ctx, t, b, pubsub.Receiver{Deliver: deliver})
	subscribe(ctx, t, b, "t")
	defer b.Unsubscribe("t")
	var wg sync.WaitGroup
	for s := range senders {
		wg.Go(func() {
			for i := range each {
				if err := b.Send(ctx, pubsub.Message{Topic: "t", Data: fmt.Append(nil, s, "/", i), Published: time.Now()}); err != nil {
					t.Errorf("Send: %v", err)
				}
			}
		})
	}
	seen := map[string]bool{}
	for range senders * each {
		data := string(receive(ctx, t, got, "a message").Data)
		if seen[data] {
			t.Errorf("%q was delivered twice", data)
		}
		seen[data] = true
	}
	wg.Wait()
	select {
	case m := <-got:
		t.Errorf("unexpected message %q", m.Data)
	default:
	}
}

// publish checks Store and Bus together, as pubsub.Publish uses them.
func publish(ctx context.Context, t *testing.T, b pubsub.Backplane) {
	deliver, got := inbox("t")
	running(ctx, t, b, pubsub.Receiver{Deliver: deliver})
	subscribe(ctx, t, b, "t")
	defer b.Unsubscribe("t")
	for _, data := range []string{"one", "two", ""} {
		m := retained("t", data)
		m.Sender, m.Properties = "me", []byte("\x01\x01")
		v, err := pubsub.Publish(ctx, b, m)()
		if err != nil || v.IsZero() {
			t.Fatalf("Publish = %v, %v", v, err)
		}
		m.Version = v
		if diff := difference(receive(ctx, t, got, "the message"), m); diff != "" {
			t.Fatalf("published %q, delivered message has %s", data, diff)
		}
		if data != "" {
			wantLast(ctx, t, b, pubsub.Version{}, m, v)
		}
	}
	wantNone(ctx, t, b, "t", pubsub.Version{})
}

// publishTTL0 checks that a message with a TTL of 0 reaches live subscribers unchanged, and
// that the store keeps the marker of a clear in its place.
func publishTTL0(ctx context.Context, t *testing.T, b pubsub.Backplane) {
	deliver, got := inbox("t")
	running(ctx, t, b, pubsub.Receiver{Deliver: deliver})
	subscribe(ctx, t, b, "t")
	defer b.Unsubscribe("t")
	old := put(ctx, t, b, retained("t", "old"))
	m := retained("t", "not kept")
	m.HasTTL, m.Sender, m.Properties = true, "me", []byte("\x01\x01")
	v, err := pubsub.Publish(ctx, b, m)()
	if err != nil {
		t.Fatal(err)
	}
	m.Version = v
	next := receive(ctx, t, got, "the message")
	if next.Version == old { // the Store may announce a message that was only put
		next = receive(ctx, t, got, "the message")
	}
	if diff := difference(next, m); diff != "" {
		t.Fatalf("delivered message has %s", diff)
	}
	wantCleared(ctx, t, b, "t", old, v)
}

func broadcast(ctx context.Context, t *testing.T, b pubsub.Backplane) {
	received := make(chan pubsub.ControlMessage, 10)
	running(ctx, t, b, pubsub.Receiver{Control: func(c pubsub.ControlMessage) []byte {
		received <- c
		return []byte("a reply that Broadcast discards")
	}})
	for _, c := range []pubsub.ControlMessage{{Kind: "a", Body: []byte("\x00body")}, {Kind: "b"}} {
		if err := b.Broadcast(ctx, c); err != nil {
			t.Fatal(err)
		}
		if got := receive(ctx, t, received, "the control message"); got.Kind != c.Kind || !bytes.Equal(got.Body, c.Body) {
			t.Errorf("received %+v, want %+v", got, c)
		}
	}
}

func gather(ctx context.Context, t *testing.T, b pubsub.Backplane) {
	running(ctx, t, b, pubsub.Receiver{Control: func(c pubsub.ControlMessage) []byte {
		return append([]byte(c.Kind+":"), c.Body...)
	}})
	for i := range 10 {
		// A bus that does not know the number of nodes waits for all of this time.
		within, cancel := context.WithTimeout(ctx, time.Second)
		replies, err := b.Gather(within, pubsub.ControlMessage{Kind: "k", Body: fmt.Append(nil, i)})
		cancel()
		if err != nil || len(replies) != 1 || string(replies[0]) != fmt.Sprint("k:", i) {
			t.Fatalf("Gather = %q, %v, want the reply of the only node", replies, err)
		}
		if i == 0 && within.Err() != nil {
			break // the bus has waited for all of the time: do not repeat that
		}
	}
}

func gatherGetsNoReply(ctx context.Context, t *testing.T, b pubsub.Backplane) {
	running(ctx, t, b, pubsub.Receiver{})
	within, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if replies, err := b.Gather(within, pubsub.ControlMessage{Kind: "k"}); err != nil || len(replies) != 0 {
		t.Fatalf("Gather = %q, %v, want no reply and no error", replies, err)
	}
}

func busContextDone(ctx context.Context, t *testing.T, b pubsub.Backplane) {
	running(ctx, t, b, pubsub.Receiver{})
	done := cancelled(ctx)
	if err := b.Send(done, pubsub.Message{Topic: "t", Published: time.Now()}); !errors.Is(err, context.Canceled) {
		t.Errorf("Send with a context that is done: error %v", err)
	}
	if err := b.Subscribe(done, "t"); !errors.Is(err, context.Canceled) {
		t.Errorf("Subscribe with a context that is done: error %v", err)
	}
	if err := b.Broadcast(done, pubsub.ControlMessage{Kind: "k"}); !errors.Is(err, context.Canceled) {
		t.Errorf("Broadcast with a context that is done: error %v", err)
	}
}

// runEnds checks that Run returns when its context is done, and that nothing is delivered
// afterwards.
func runEnds(ctx context.Context, t *testing.T, b pubsub.Backplane) {
	deliver, got := inbox("t")
	t.Run("while", func(t *testing.T) { // its cleanup ends Run
		running(ctx, t, b, pubsub.Receiver{Deliver: deliver})
		subscribe(ctx, t, b, "t")
		send(ctx, t, b, pubsub.Message{Topic: "t", Published: time.Now()})
		receive(ctx, t, got, "the message")
	})
	_ = b.Send(ctx, pubsub.Message{Topic: "t", Published: time.Now()}) // may be refused
	select {
	case m := <-got:
		t.Errorf("delivered after Run: %+v", m)
	default:
	}
	b.Unsubscribe("t")
}
