package local

import (
	"errors"
	"maps"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2"

	"pubsub"
)

// TestUnreadableKeys checks that a key whose record cannot be read is reported at Open,
// hides no other key, keeps its id, and can be deleted.
func TestUnreadableKeys(t *testing.T) {
	ctx := t.Context()
	dir := t.TempDir()
	unreadable := map[string]error{} // by id
	open := func() *Backplane {
		t.Helper()
		clear(unreadable)
		b, err := Open(Options{Dir: dir, Events: Events{Unreadable: func(kind, name string, err error) {
			if kind == "key" {
				unreadable[name] = err
			}
		}}})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	b := open()
	for _, id := range []string{"a", "z"} {
		if err := b.PutKey(ctx, pubsub.Key{ID: id, Value: "v"}); err != nil {
			t.Fatal(err)
		}
	}
	for id, record := range map[string]string{"later": "\x63 of a later release", "garbage": "\x00", "short": "\x01"} {
		if err := b.engine.db.Set(append([]byte{prefixKey}, id...), []byte(record), pebble.Sync); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}

	b = open()
	if ids := slices.Sorted(maps.Keys(unreadable)); !slices.Equal(ids, []string{"garbage", "later", "short"}) || !errors.Is(unreadable["later"], ErrNewerFormat) {
		t.Errorf("Unreadable reported %v", unreadable)
	}
	keys, err := b.Keys(ctx)
	if err != nil || len(keys) != 2 || keys[0].ID != "a" || keys[1].ID != "z" {
		t.Errorf("Keys = %+v, %v", keys, err)
	}
	if _, err := b.Key(ctx, "later"); !errors.Is(err, ErrNewerFormat) {
		t.Errorf("Key = %v", err)
	}
	if err := b.PutKey(ctx, pubsub.Key{ID: "later", Value: "v"}); !errors.Is(err, pubsub.ErrKeyExists) {
		t.Errorf("PutKey = %v, want %v", err, pubsub.ErrKeyExists)
	}
	if err := b.DeleteKey(ctx, "garbage"); err != nil {
		t.Errorf("DeleteKey = %v", err)
	}
	if err := b.PutKey(ctx, pubsub.Key{ID: "garbage", Value: "v"}); err != nil {
		t.Errorf("PutKey of the deleted key = %v", err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}

	b = open()
	defer b.Close()
	if ids := slices.Sorted(maps.Keys(unreadable)); !slices.Equal(ids, []string{"later", "short"}) {
		t.Errorf("Unreadable reported %v", unreadable)
	}
	if keys, err := b.Keys(ctx); err != nil || len(keys) != 3 {
		t.Errorf("Keys = %+v, %v", keys, err)
	}
}
