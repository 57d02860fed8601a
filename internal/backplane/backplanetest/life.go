package backplanetest

import (
	"context"
	"errors"
	"testing"
	"time"

	"pubsub"
)

var lifeTests = []test{
	{"Health", health},
	{"Close", closes},
}

// health checks the Health of a backplane that runs.
func health(ctx context.Context, t *testing.T, b pubsub.Backplane) {
	running(ctx, t, b, pubsub.Receiver{})
	if err := b.Health(ctx); err != nil {
		t.Errorf("Health = %v", err)
	}
	if err := b.Health(cancelled(ctx)); err == nil {
		t.Error("Health with a context that is done = nil")
	}
}

// closes checks that Close waits for pending writes, ends Run and WatchKeys, and makes
// later calls fail.
func closes(ctx context.Context, t *testing.T, b pubsub.Backplane) {
	ready := make(chan struct{}, 2)
	ended := make(chan error, 2)
	go func() {
		ended <- b.Run(ctx, pubsub.Receiver{
			Ready:   func() { ready <- struct{}{} },
			Deliver: func(*pubsub.PreparedMessage) {},
			Control: func(pubsub.ControlMessage) []byte { return nil },
		})
	}()
	go func() {
		ended <- b.WatchKeys(ctx, func(c pubsub.KeyEvent) {
			if c.Synced {
				ready <- struct{}{}
			}
		})
	}()
	receive(ctx, t, ready, "Ready")
	receive(ctx, t, ready, "Ready")
	wait := b.Put(ctx, retained("t", "pending"))
	if err := b.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	if v, err := wait(); err != nil || v.IsZero() {
		t.Errorf("a Put that was pending at Close = %v, %v", v, err)
	}
	for range 2 {
		if err := receive(ctx, t, ended, "the end of Run and WatchKeys"); !errors.Is(err, pubsub.ErrClosed) {
			t.Errorf("Run or WatchKeys = %v, want %v", err, pubsub.ErrClosed)
		}
	}
	calls := map[string]func() error{
		"Put":       func() error { _, err := b.Put(ctx, retained("t", "x"))(); return err },
		"Last":      func() error { _, _, err := b.Last(ctx, "t", pubsub.Version{}); return err },
		"List":      func() error { _, err := b.List(ctx, "", "", 1); return err },
		"PutKey":    func() error { return b.PutKey(ctx, newKey("a", "v")) },
		"Keys":      func() error { _, err := b.Keys(ctx); return err },
		"Key":       func() error { _, err := b.Key(ctx, "a"); return err },
		"DeleteKey": func() error { return b.DeleteKey(ctx, "a") },
		"WatchKeys": func() error { return b.WatchKeys(ctx, func(pubsub.KeyEvent) {}) },
		"Send":      func() error { return b.Send(ctx, pubsub.Message{Topic: "t", Published: time.Now()}) },
		"Subscribe": func() error { return b.Subscribe(ctx, "t") },
		"Broadcast": func() error { return b.Broadcast(ctx, pubsub.ControlMessage{Kind: "k"}) },
		"Gather":    func() error { _, err := b.Gather(ctx, pubsub.ControlMessage{Kind: "k"}); return err },
		"Health":    func() error { return b.Health(ctx) },
	}
	for name, call := range calls {
		if err := call(); !errors.Is(err, pubsub.ErrClosed) {
			t.Errorf("%s after Close: error %v, want %v", name, err, pubsub.ErrClosed)
		}
	}
	if err := b.Close(); err != nil {
		t.Errorf("a second Close: %v", err)
	}
}
