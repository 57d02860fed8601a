package token

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"pubsub"
)

// A cached token is refused as soon as its key has changed or it has expired.
func TestCachedToken(t *testing.T) {
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
		t.Errorf("second Verify = %p, %v, want %p", again, err, first)
	}
	if _, err := v.Verify(t.Context(), raw[:len(raw)-4]+"AAAA", now); !errors.Is(err, ErrInvalid) {
		t.Errorf("another signature: %v", err)
	}
	if _, err := v.Verify(t.Context(), raw, now.Add(time.Hour+Leeway)); !errors.Is(err, ErrInvalid) {
		t.Errorf("expired: %v", err)
	}
	value = "another"
	if _, err := v.Verify(t.Context(), raw, now); !errors.Is(err, ErrInvalid) {
		t.Errorf("another value of the key: %v", err)
	}
	value, lookup = "", pubsub.ErrKeyNotFound
	if _, err := v.Verify(t.Context(), raw, now); !errors.Is(err, ErrInvalid) {
		t.Errorf("key deleted: %v", err)
	}
	lookup = pubsub.ErrUnavailable
	if _, err := v.Verify(t.Context(), raw, now); !errors.Is(err, pubsub.ErrUnavailable) {
		t.Errorf("lookup fails: %v", err)
	}
	value, lookup = key.Value, nil
	if _, err := v.Verify(t.Context(), raw, now); err != nil {
		t.Errorf("key restored: %v", err)
	}
}

func TestCacheIsBounded(t *testing.T) {
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
		t.Errorf("%d tokens are cached, want %d", n, maxRecent)
	}
	if _, err := v.Verify(t.Context(), "a.b.c", time.Now()); !errors.Is(err, ErrInvalid) {
		t.Error(err)
	}
	if n := len(v.recent.tokens); n != maxRecent {
		t.Errorf("a refused token has replaced a cached one: %d are left", n)
	}
}
