package backplanetest

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"pubsub"
)

var storeTests = []test{
	{"Empty", empty},
	{"RoundTrip", roundTrip},
	{"Sizes", sizes},
	{"VersionsGrow", versionsGrow},
	{"PutDecidesOrder", putDecidesOrder},
	{"Pipeline", pipeline},
	{"LastAfter", lastAfter},
	{"Clear", clearByEmpty},
	{"ClearByTTL0", clearByTTL0},
	{"ClearOfEmptyTopic", clearOfEmptyTopic},
	{"ClearWithTTL", clearWithTTL},
	{"TTL", ttl},
	{"LastNeverGoesBack", lastNeverGoesBack},
	{"SlicesMayBeReused", slicesMayBeReused},
	{"List", list},
	{"ListPages", listPages},
	{"ListOmitsCleared", listOmitsCleared},
	{"ContextDone", storeContextDone},
}

func empty(ctx context.Context, t *testing.T, b pubsub.Backplane) {
	wantNone(ctx, t, b, "never", pubsub.Version{})
	wantNone(ctx, t, b, "never", pubsub.Version{Generation: 7, Seq: 7})
	if l, err := b.List(ctx, "", "", 10); err != nil || len(l) != 0 {
		t.Fatalf("List of a new store = %v, %v", l, err)
	}
	put(ctx, t, b, retained("neverland", "x"))
	wantNone(ctx, t, b, "never", pubsub.Version{})
}

func roundTrip(ctx context.Context, t *testing.T, b pubsub.Backplane) {
	for _, m := range []pubsub.Message{
		retained("plain", "hello"),
		{Topic: "binary", Data: []byte("\x00\xff\r\n\x80"), Retain: true, Published: time.Now()},
		{Topic: "ttl", Data: []byte("x"), Retain: true, Published: time.Now(), HasTTL: true, TTL: 1<<32 - 1},
		{Topic: "all", Data: []byte("x"), Retain: true, Published: time.Now(), HasTTL: true, TTL: 3600,
			Sender: "key\x00sub\xffclient", Properties: []byte("\x01\x01\x26\x00\x01k\x00\x01v")},
	} {
		v := put(ctx, t, b, m)
		wantLast(ctx, t, b, pubsub.Version{}, m, v)
		m.Data = []byte("again")
		w := put(ctx, t, b, m)
		wantLast(ctx, t, b, v, m, w)
	}
}

func sizes(ctx context.Context, t *testing.T, b pubsub.Backplane) {
	for _, n := range []int{1, 127, 128, 32512, 100_000} {
		m := retained("t", strings.Repeat("d", n))
		m.Properties = []byte(strings.Repeat("p", n/2))
		m.Sender = strings.Repeat("s", min(n, 65535))
		wantLast(ctx, t, b, pubsub.Version{}, m, put(ctx, t, b, m))
	}
	m := retained(pubsub.Topic(strings.Repeat("é", pubsub.MaxTopicBytes/2)), "longest")
	wantLast(ctx, t, b, pubsub.Version{}, m, put(ctx, t, b, m))
}

func lastAfter(ctx context.Context, t *testing.T, b pubsub.Backplane) {
	old := put(ctx, t, b, retained("t", "old"))
	m := retained("t", "new")
	v := put(ctx, t, b, m)
	wantLast(ctx, t, b, pubsub.Version{}, m, v)
	wantLast(ctx, t, b, old, m, v)
	wantNone(ctx, t, b, "t", v)
	other := v
	other.Generation ^= 1
	wantLast(ctx, t, b, other, m, v)
	ahead := v
	ahead.Seq += 1 << 40
	wantLast(ctx, t, b, ahead, m, v)
	wantLast(ctx, t, b, pubsub.Version{Generation: v.Generation, Seq: 1<<64 - 1}, m, v)
}

func slicesMayBeReused(ctx context.Context, t *testing.T, b pubsub.Backplane) {
	m := retained("t", "data")
	m.Properties = []byte("properties")
	v := put(ctx, t, b, m)
	copy(m.Data, "XXXX")
	copy(m.Properties, "XXXXXXXXXX")
	want := retained("t", "data")
	want.Published, want.Properties = m.Published, []byte("properties")
	wantLast(ctx, t, b, pubsub.Version{}, want, v)
}

func storeContextDone(ctx context.Context, t *testing.T, b pubsub.Backplane) {
	m := retained("t", "kept")
	v := put(ctx, t, b, m)
	done := cancelled(ctx)
	if w, err := b.Put(done, retained("t", "refused"))(); !errors.Is(err, context.Canceled) {
		t.Errorf("Put with a context that is done = %v, %v", w, err)
	}
	if _, _, err := b.Last(done, "t", pubsub.Version{}); !errors.Is(err, context.Canceled) {
		t.Errorf("Last with a context that is done: error %v", err)
	}
	if _, err := b.List(done, "", "", 1); !errors.Is(err, context.Canceled) {
		t.Errorf("List with a context that is done: error %v", err)
	}
	wantLast(ctx, t, b, pubsub.Version{}, m, v)
}
