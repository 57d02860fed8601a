package local

import (
	"testing"
	"time"

	"pubsub"
)

// checkStats compares the figures with the records in the database.
func checkStats(t *testing.T, b *Backplane) {
	t.Helper()
	found, err := scan(b.db)
	if err != nil {
		t.Fatal(err)
	}
	got, want := b.Stats(), Stats{
		Retained:      found.figures.retained.Load(),
		RetainedBytes: found.figures.retainedBytes.Load(),
		Markers:       found.figures.markers.Load(),
		Keys:          len(found.keys),
	}
	if got.Retained != want.Retained || got.RetainedBytes != want.RetainedBytes || got.Markers != want.Markers || got.Keys != want.Keys {
		t.Errorf("Stats = %+v, but the database has %+v", got, want)
	}
}

// TestStats checks the figures after each kind of change.
func TestStats(t *testing.T) {
	dir := t.TempDir()
	b := open(t, Options{Dir: dir})
	want := func(retained, markers int64) {
		t.Helper()
		s := b.Stats()
		if s.Retained != retained || s.Markers != markers || (s.RetainedBytes == 0) != (retained == 0) {
			t.Errorf("Stats = %+v, want %d retained, %d markers", s, retained, markers)
		}
		checkStats(t, b)
	}
	put := func(m pubsub.Message) {
		t.Helper()
		if _, err := b.Put(t.Context(), m)(); err != nil {
			t.Fatal(err)
		}
	}
	want(0, 0)
	put(message("a", "one"))
	put(message("b", "one"))
	want(2, 0)
	put(message("a", "two, longer"))
	want(2, 0)
	put(message("a", ""))
	want(1, 1)
	put(message("a", ""))
	want(1, 1)
	put(message("a", "back"))
	want(2, 0)
	m := message("c", "short")
	m.HasTTL, m.TTL = true, 60
	put(m)
	put(message("d", ""))
	want(3, 1)
	if err := b.PutKey(t.Context(), pubsub.Key{ID: "k", Value: "v"}); err != nil {
		t.Fatal(err)
	}
	want(3, 1)
	if err := b.expire(t.Context(), time.Now().Add(2*time.Minute)); err != nil {
		t.Fatal(err)
	}
	want(2, 1)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b = open(t, Options{Dir: dir})
	defer b.Close()
	want(2, 1)
	if s := b.Stats(); s.Keys != 1 || s.DiskFree <= 0 || s.DiskReserve <= 0 {
		t.Errorf("Stats = %+v, want one key and the free space of the disk", s)
	}
}
