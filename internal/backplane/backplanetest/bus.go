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

func (k kit) bus(t *testing.T) {
	k.each(t, []test{
		{"Deliver", deliver},
		{"WantTwice", wantTwice},
		{"DeliverMany", deliverMany},
		{"Publish", publish},
		{"PublishTTL0", publishTTL0},
		{"Broadcast", tell},
		{"Gather", ask},
		{"GatherGetsNoReply", askGetsNoReply},
		{"ContextDone", busContextDone},
	})
	t.Run("RunEnds", func(t *testing.T) { runEnds(t, k.open(t)) })
}

// inbox returns a Deliver and the channel where the messages of topics come out.
func inbox(topics ...pubsub.Topic) (func(*pubsub.PreparedMessage), <-chan pubsub.Message) {
	c := make(chan pubsub.Message, 10_000)
	return func(p *pubsub.PreparedMessage) {
		for _, topic := range topics { // others may be passed, too
			if p.Topic == topic {
				c <- p.Message
			}
		}
	}, c
}

func want(ctx context.Context, t *testing.T, b pubsub.Backplane, topics ...pubsub.Topic) {
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

// deliver checks that what is sent after Subscribe has returned arrives, as it was.
func deliver(ctx context.Context, t *testing.T, b pubsub.Backplane) {
	deliver, got := inbox(weirdTopics...)
	running(ctx, t, b, pubsub.Receiver{Deliver: deliver})
	want(ctx, t, b, weirdTopics...)
	for _, topic := range weirdTopics {
		for _, m := range []pubsub.Message{
			{Topic: topic, Data: []byte("hello"), Published: time.Now()},
			{Topic: topic, Published: time.Now()},
			{Topic: topic, Data: []byte("\x00\xff\r\n"), Published: time.Now(), HasTTL: true, TTL: 0,
				Sender: "key\x00sub\xffclient", Properties: []byte("\x01\x01\x26\x00\x01k\x00\x01v")},
		} {
			send(ctx, t, b, m)
			if diff := difference(receive(ctx, t, got, "the message"), m); diff != "" {
				t.Fatalf("sent to %q, delivered with %s", topic, diff)
			}
		}
	}
	for _, topic := range weirdTopics {
		b.Unsubscribe(topic)
	}
}

func wantTwice(ctx context.Context, t *testing.T, b pubsub.Backplane) {
	deliver, got := inbox("t")
	running(ctx, t, b, pubsub.Receiver{Deliver: deliver})
	want(ctx, t, b, "t", "t", "u")
	b.Unsubscribe("t")
	b.Unsubscribe("u")
	send(ctx, t, b, pubsub.Message{Topic: "t", Data: []byte("still wanted"), Published: time.Now()})
	if m := receive(ctx, t, got, "the message"); string(m.Data) != "still wanted" {
		t.Errorf("delivered %q", m.Data)
	}
	b.Unsubscribe("t")
	want(ctx, t, b, "t")
	send(ctx, t, b, pubsub.Message{Topic: "t", Data: []byte("wanted again"), Published: time.Now()})
	if m := receive(ctx, t, got, "the message"); string(m.Data) != "wanted again" {
		t.Errorf("delivered %q", m.Data)
	}
	b.Unsubscribe("t")
}

// deliverMany checks that of many messages none comes twice, and that all come
// while nothing is wrong.
func deliverMany(ctx context.Context, t *testing.T, b pubsub.Backplane) {
	const senders, each = 8, 50
	deliver, got := inbox("t")
	running(ctx, t, b, pubsub.Receiver{Deliver: deliver})
	want(ctx, t, b, "t")
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
			t.Errorf("%q came twice", data)
		}
		seen[data] = true
	}
	wg.Wait()
	select {
	case m := <-got:
		t.Errorf("one more message: %q", m.Data)
	default:
	}
}

// publish checks Store and Bus together, as pubsub.Publish uses them.
func publish(ctx context.Context, t *testing.T, b pubsub.Backplane) {
	deliver, got := inbox("t")
	running(ctx, t, b, pubsub.Receiver{Deliver: deliver})
	want(ctx, t, b, "t")
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
			t.Fatalf("published %q, delivered with %s", data, diff)
		}
		if data != "" {
			wantLast(ctx, t, b, pubsub.Version{}, m, v)
		}
	}
	wantNone(ctx, t, b, "t", pubsub.Version{})
}

// publishTTL0 checks that a message which is not kept reaches live subscribers as
// it is, and that what is kept in its place is the marker of a clear.
func publishTTL0(ctx context.Context, t *testing.T, b pubsub.Backplane) {
	deliver, got := inbox("t")
	running(ctx, t, b, pubsub.Receiver{Deliver: deliver})
	want(ctx, t, b, "t")
	defer b.Unsubscribe("t")
	old := put(ctx, t, b, retained("t", "old"))
	m := retained("t", "for the living")
	m.HasTTL, m.Sender, m.Properties = true, "me", []byte("\x01\x01")
	v, err := pubsub.Publish(ctx, b, m)()
	if err != nil {
		t.Fatal(err)
	}
	m.Version = v
	next := receive(ctx, t, got, "the message")
	if next.Version == old { // the Store may announce what was put
		next = receive(ctx, t, got, "the message")
	}
	if diff := difference(next, m); diff != "" {
		t.Fatalf("delivered with %s", diff)
	}
	wantCleared(ctx, t, b, "t", old, v)
}

func tell(ctx context.Context, t *testing.T, b pubsub.Backplane) {
	told := make(chan pubsub.ControlMessage, 10)
	running(ctx, t, b, pubsub.Receiver{Control: func(c pubsub.ControlMessage) []byte {
		told <- c
		return []byte("nobody asked")
	}})
	for _, c := range []pubsub.ControlMessage{{Kind: "a", Body: []byte("\x00body")}, {Kind: "b"}} {
		if err := b.Broadcast(ctx, c); err != nil {
			t.Fatal(err)
		}
		if got := receive(ctx, t, told, "what was told"); got.Kind != c.Kind || !bytes.Equal(got.Body, c.Body) {
			t.Errorf("told %+v, want %+v", got, c)
		}
	}
}

func ask(ctx context.Context, t *testing.T, b pubsub.Backplane) {
	running(ctx, t, b, pubsub.Receiver{Control: func(c pubsub.ControlMessage) []byte {
		return append([]byte(c.Kind+":"), c.Body...)
	}})
	for i := range 10 {
		// A bus that does not know how many nodes there are waits for all of
		// this time.
		within, cancel := context.WithTimeout(ctx, time.Second)
		replies, err := b.Gather(within, pubsub.ControlMessage{Kind: "k", Body: fmt.Append(nil, i)})
		cancel()
		if err != nil || len(replies) != 1 || string(replies[0]) != fmt.Sprint("k:", i) {
			t.Fatalf("Gather = %q, %v, want the reply of the one node", replies, err)
		}
		if i == 0 && within.Err() != nil {
			break // it has waited: once is enough
		}
	}
}

func askGetsNoReply(ctx context.Context, t *testing.T, b pubsub.Backplane) {
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

// runEnds checks that Run ends with its context, and that after it nothing is
// delivered.
func runEnds(t *testing.T, b pubsub.Backplane) {
	defer b.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	deliver, got := inbox("t")
	t.Run("while", func(t *testing.T) {
		running(ctx, t, b, pubsub.Receiver{Deliver: deliver})
		want(ctx, t, b, "t")
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
