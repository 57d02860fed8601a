package local

import (
	"context"
	"errors"
	"testing"

	"pubsub"
)

func TestBusNeedsRun(t *testing.T) {
	b := open(t, Options{InMemory: true})
	defer b.Close()
	ctx := t.Context()
	check := func(when string) {
		t.Helper()
		if err := b.Send(ctx, pubsub.Message{Topic: "t"}); !errors.Is(err, pubsub.ErrUnavailable) {
			t.Errorf("Send %s Run: %v, want %v", when, err, pubsub.ErrUnavailable)
		}
		if _, err := b.Gather(ctx, pubsub.ControlMessage{}); !errors.Is(err, pubsub.ErrUnavailable) {
			t.Errorf("Gather %s Run: %v, want %v", when, err, pubsub.ErrUnavailable)
		}
	}
	check("before")
	run, stop := context.WithCancel(ctx)
	delivered := 0
	r := pubsub.Receiver{
		Deliver: func(*pubsub.PreparedMessage) { delivered++ },
		Control: func(pubsub.ControlMessage) []byte { return nil },
	}
	r.Ready = func() {
		if err := b.Send(ctx, pubsub.Message{Topic: "t"}); err != nil || delivered != 1 {
			t.Errorf("Send as soon as Ready: %v, %d delivered", err, delivered)
		}
		stop()
	}
	if err := b.Run(run, r); err != nil {
		t.Errorf("Run = %v, want nil", err)
	}
	check("after")
	if err := b.Run(ctx, r); err == nil {
		t.Error("a second Run returns no error")
	}
}

func TestUnsubscribeWithoutSubscribe(t *testing.T) {
	b := open(t, Options{InMemory: true})
	defer b.Close()
	if err := b.Subscribe(t.Context(), "t"); err != nil {
		t.Fatal(err)
	}
	b.Unsubscribe("t")
	defer func() {
		if recover() == nil {
			t.Error("Unsubscribe without Subscribe does not panic")
		}
	}()
	b.Unsubscribe("t")
}
