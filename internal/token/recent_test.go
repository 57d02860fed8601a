package token

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"pubsub"
)

// A token that was good before is refused as soon as its key or the time says so,
// and only then.
func TestRecent(t *testing.T) {
	key := pubsub.Key{ID: "k", Value: "secret"}
	now := time.Unix(1_750_000_000, 0)
	raw, err := Sign(key, Claims{Read: []string{"a"}, Expires: now.Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	value, lookup := key.Value, error(nil)
	v := &Verifier{Key: func(context.Context, string) (string, error) { return value, lookup }}
	first, err := v.Verify(t.Context(), raw, now)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := v.Verify(t.Context(), raw, now.Add(time.Hour)); again != first || err != nil {
		t.Errorf("the second time %p, %v, not %p", again, err, first)
	}
	if _, err := v.Verify(t.Context(), raw[:len(raw)-4]+"AAAA", now); !errors.Is(err, ErrInvalid) {
		t.Errorf("with another signature: %v", err)
	}
	if _, err := v.Verify(t.Context(), raw, now.Add(time.Hour+Leeway)); !errors.Is(err, ErrInvalid) {
		t.Errorf("expired: %v", err)
	}
	value = "another"
	if _, err := v.Verify(t.Context(), raw, now); !errors.Is(err, ErrInvalid) {
		t.Errorf("with another value of the key: %v", err)
	}
	value, lookup = "", pubsub.ErrKeyNotFound
	if _, err := v.Verify(t.Context(), raw, now); !errors.Is(err, ErrInvalid) {
		t.Errorf("without the key: %v", err)
	}
	lookup = pubsub.ErrUnavailable
	if _, err := v.Verify(t.Context(), raw, now); !errors.Is(err, pubsub.ErrUnavailable) {
		t.Errorf("while keys cannot be looked up: %v", err)
	}
	value, lookup = key.Value, nil
	if _, err := v.Verify(t.Context(), raw, now); err != nil {
		t.Errorf("with the key again: %v", err)
	}
}

func TestRecentIsBounded(t *testing.T) {
	key := pubsub.Key{ID: "k", Value: "secret"}
	v := &Verifier{Key: func(context.Context, string) (string, error) { return key.Value, nil }}
	for i := range maxRecent + 10 {
		raw, err := Sign(key, Claims{Subject: fmt.Sprint(i)})
		if err != nil {
			t.Fatal(err)
		}
		if g, err := v.Verify(t.Context(), raw, time.Now()); err != nil || g.Subject != fmt.Sprint(i) {
			t.Fatalf("token %d: %+v, %v", i, g, err)
		}
	}
	if n := len(v.recent.tokens); n != maxRecent {
		t.Errorf("%d tokens are remembered, want %d", n, maxRecent)
	}
	if _, err := v.Verify(t.Context(), "a.b.c", time.Now()); !errors.Is(err, ErrInvalid) {
		t.Error(err)
	}
	if n := len(v.recent.tokens); n != maxRecent {
		t.Errorf("a bad token took the place of a good one: %d are left", n)
	}
}
