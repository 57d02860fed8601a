package backplanetest

import (
	"context"
	"testing"
	"time"

	"pubsub"
)

// wantCleared checks that topic has the marker of a clear with version v. old is the
// version of the cleared message.
func wantCleared(ctx context.Context, t *testing.T, b pubsub.Backplane, topic pubsub.Topic, old, v pubsub.Version) {
	t.Helper()
	if !v.Newer(old) || v.Generation != old.Generation {
		t.Fatalf("the clear has version %v, the cleared message %v", v, old)
	}
	wantNone(ctx, t, b, topic, pubsub.Version{})
	wantNone(ctx, t, b, topic, v)
	wantNone(ctx, t, b, topic, pubsub.Version{Generation: v.Generation ^ 1, Seq: 1})
	wantNone(ctx, t, b, topic, pubsub.Version{Generation: v.Generation, Seq: 1<<64 - 1})
	m, ok, err := b.Last(ctx, topic, old)
	if err != nil || !ok {
		t.Fatalf("Last(%q, %v) = ok %v, error %v, want the clear", topic, old, ok, err)
	}
	if len(m.Data) != 0 || m.Version != v || m.Topic != topic || m.Expired(time.Now()) {
		t.Fatalf("the clear of %q has topic %q, data %q, version %v, expired %v; want no data, version %v", topic, m.Topic, m.Data, m.Version, m.Expired(time.Now()), v)
	}
}

func clearByEmpty(ctx context.Context, t *testing.T, b pubsub.Backplane) {
	old := put(ctx, t, b, retained("t", "old"))
	v := put(ctx, t, b, retained("t", ""))
	wantCleared(ctx, t, b, "t", old, v)
	again := put(ctx, t, b, retained("t", ""))
	wantCleared(ctx, t, b, "t", v, again)
	m := retained("t", "new")
	w := put(ctx, t, b, m)
	wantLast(ctx, t, b, pubsub.Version{}, m, w)
	wantLast(ctx, t, b, again, m, w)
}

func clearByTTL0(ctx context.Context, t *testing.T, b pubsub.Backplane) {
	old := put(ctx, t, b, retained("t", "old"))
	m := retained("t", "not kept")
	m.HasTTL = true
	wantCleared(ctx, t, b, "t", old, put(ctx, t, b, m))
}

func clearOfEmptyTopic(ctx context.Context, t *testing.T, b pubsub.Backplane) {
	v := put(ctx, t, b, retained("t", ""))
	wantNone(ctx, t, b, "t", pubsub.Version{})
	wantNone(ctx, t, b, "t", v)
	m := retained("t", "new")
	wantLast(ctx, t, b, v, m, put(ctx, t, b, m))
}

// clearWithTTL checks that the TTL of an empty message does not apply to the marker of its
// clear.
func clearWithTTL(ctx context.Context, t *testing.T, b pubsub.Backplane) {
	old := put(ctx, t, b, retained("t", "old"))
	m := retained("t", "")
	m.HasTTL, m.TTL = true, 1
	m.Published = m.Published.Add(-time.Hour)
	wantCleared(ctx, t, b, "t", old, put(ctx, t, b, m))
}

func ttl(ctx context.Context, t *testing.T, b pubsub.Backplane) {
	v := put(ctx, t, b, retained("t", "old"))
	m := retained("t", "short")
	m.HasTTL, m.TTL = true, 60
	m.Published = time.Now().Add(-time.Minute)
	w := put(ctx, t, b, m)
	if !w.Newer(v) || w.Generation != v.Generation {
		t.Errorf("version %v follows %v", w, v)
	}
	wantNone(ctx, t, b, "t", pubsub.Version{})
	wantNone(ctx, t, b, "t", v)
	m.Published = time.Now()
	wantLast(ctx, t, b, pubsub.Version{}, m, put(ctx, t, b, m))
	m.HasTTL, m.TTL = false, 0
	m.Published = time.Now().Add(-10 * 365 * 24 * time.Hour)
	wantLast(ctx, t, b, pubsub.Version{}, m, put(ctx, t, b, m))
}
