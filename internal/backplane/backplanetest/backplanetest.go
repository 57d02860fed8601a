// Package backplanetest is the conformance suite of [pubsub.Backplane]. An implementation
// runs it in one line:
//
//	backplanetest.Run(t, func(t *testing.T) pubsub.Backplane { ... })
//
// The tests assume no more than the interfaces promise: that the next version is greater,
// not by how much; that a message arrives soon, not that it arrives within Send.
package backplanetest

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"time"

	"pubsub"
)

// timeout bounds each test.
const timeout = 30 * time.Second

// Run runs all tests. open returns a backplane of a new, empty broker that the test has
// for itself; the test closes it.
func Run(t *testing.T, open func(t *testing.T) pubsub.Backplane) {
	t.Run("Store", func(t *testing.T) { each(t, open, storeTests) })
	t.Run("Keyring", func(t *testing.T) { each(t, open, keyringTests) })
	t.Run("Bus", func(t *testing.T) { each(t, open, busTests) })
	t.Run("Life", func(t *testing.T) { each(t, open, lifeTests) })
}

// test is a test of a backplane whose bus is not running.
type test struct {
	name string
	run  func(ctx context.Context, t *testing.T, b pubsub.Backplane)
}

// each runs every test with a backplane of its own.
func each(t *testing.T, open func(t *testing.T) pubsub.Backplane, tests []test) {
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			b := open(t)
			t.Cleanup(func() {
				if err := b.Close(); err != nil {
					t.Errorf("Close: %v", err)
				}
			})
			ctx, cancel := context.WithTimeout(t.Context(), timeout)
			defer cancel()
			test.run(ctx, t, b)
		})
	}
}

// running runs the bus of b with r for the rest of the test.
func running(ctx context.Context, t *testing.T, b pubsub.Backplane, r pubsub.Receiver) {
	t.Helper()
	ready := make(chan struct{})
	r.Ready = func() { close(ready) }
	if r.Deliver == nil {
		r.Deliver = func(*pubsub.PreparedMessage) {}
	}
	if r.Control == nil {
		r.Control = func(pubsub.ControlMessage) []byte { return nil }
	}
	run, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- b.Run(run, r) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("Run = %v after its context was done, want nil", err)
		}
	})
	receive(ctx, t, ready, "Ready")
}

// receive returns the next value from c. what names it in the failure message.
func receive[T any](ctx context.Context, t *testing.T, c <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-ctx.Done():
		t.Fatalf("%s did not arrive", what)
		panic("not reached")
	}
}

// retained returns a retained message, published now.
func retained(topic pubsub.Topic, data string) pubsub.Message {
	return pubsub.Message{Topic: topic, Data: []byte(data), Retain: true, Published: time.Now()}
}

// put puts m and returns its version.
func put(ctx context.Context, t *testing.T, b pubsub.Backplane, m pubsub.Message) pubsub.Version {
	t.Helper()
	v, err := b.Put(ctx, m)()
	if err != nil {
		t.Fatalf("Put(%q): %v", m.Topic, err)
	}
	if v.Generation == 0 {
		t.Fatalf("Put(%q) = version %v, want a generation other than 0", m.Topic, v)
	}
	return v
}

// wantLast checks that Last returns m with version v.
func wantLast(ctx context.Context, t *testing.T, b pubsub.Backplane, after pubsub.Version, m pubsub.Message, v pubsub.Version) {
	t.Helper()
	got, ok, err := b.Last(ctx, m.Topic, after)
	if err != nil || !ok {
		t.Fatalf("Last(%q, %v) = ok %v, error %v, want a message", m.Topic, after, ok, err)
	}
	m.Version = v
	if diff := difference(got, m); diff != "" {
		t.Fatalf("Last(%q, %v): %s", m.Topic, after, diff)
	}
}

// wantNone checks that Last returns no message.
func wantNone(ctx context.Context, t *testing.T, b pubsub.Backplane, topic pubsub.Topic, after pubsub.Version) {
	t.Helper()
	m, ok, err := b.Last(ctx, topic, after)
	if err != nil || ok {
		t.Fatalf("Last(%q, %v) = %q, version %v, ok %v, error %v, want no message", topic, after, m.Data, m.Version, ok, err)
	}
}

// difference describes how got differs from want, or returns "". Times may be rounded to
// the millisecond.
func difference(got, want pubsub.Message) string {
	switch {
	case got.Topic != want.Topic:
		return fmt.Sprintf("topic %q, want %q", got.Topic, want.Topic)
	case !bytes.Equal(got.Data, want.Data):
		return fmt.Sprintf("data %.64q (%d bytes), want %.64q (%d bytes)", got.Data, len(got.Data), want.Data, len(want.Data))
	case got.Retain != want.Retain:
		return fmt.Sprintf("retain %v, want %v", got.Retain, want.Retain)
	case got.Version != want.Version:
		return fmt.Sprintf("version %v, want %v", got.Version, want.Version)
	case got.Published.Sub(want.Published).Abs() > time.Millisecond:
		return fmt.Sprintf("published %v, want %v", got.Published, want.Published)
	case got.HasTTL != want.HasTTL || got.TTL != want.TTL:
		return fmt.Sprintf("TTL %v %d, want %v %d", got.HasTTL, got.TTL, want.HasTTL, want.TTL)
	case got.Sender != want.Sender:
		return fmt.Sprintf("sender %q, want %q", got.Sender, want.Sender)
	case !bytes.Equal(got.Properties, want.Properties):
		return fmt.Sprintf("properties %q, want %q", got.Properties, want.Properties)
	}
	return ""
}

// cancelled returns a context that is done.
func cancelled(ctx context.Context) context.Context {
	ctx, cancel := context.WithCancel(ctx)
	cancel()
	return ctx
}
