package transfer_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"pubsub"
	"pubsub/internal/backplane/local"
	"pubsub/internal/transfer"
)

// TestResume repeats imports that were interrupted at random places. The second import
// completes the first, and keeps messages and clears that were published in between.
func TestResume(t *testing.T) {
	r := newRand(t)
	source := openLocal(t, local.Options{})
	fill(t, r, source, 700)
	file := export(t, source, transfer.Options{})
	resume := func(t *testing.T, first transfer.Result, b transfer.Store) {
		list, err := b.List(t.Context(), "", "", 1000)
		if err != nil || len(list) != first.Imported {
			t.Fatalf("%d messages after the first import, %v; want %d", len(list), err, first.Imported)
		}
		published, cleared := 0, 0
		changed := map[pubsub.Topic]pubsub.Version{}
		for _, m := range list {
			switch r.IntN(10) {
			case 0:
				changed[m.Topic] = put(t, b, pubsub.Message{Topic: m.Topic, Data: []byte("since"), Published: time.Now()})
				published++
			case 1:
				changed[m.Topic] = put(t, b, pubsub.Message{Topic: m.Topic, Published: time.Now()})
				cleared++
			}
		}
		second := importAll(t, file, b, transfer.Options{})
		if second.Newer != published+cleared || second.Present+second.Newer != first.Imported || second.Present+second.Newer+second.Imported != second.Messages {
			t.Errorf("with %d published and %d cleared in between: %+v after %+v", published, cleared, second, first)
		}
		for topic, v := range changed {
			m, ok, err := b.Last(t.Context(), topic, pubsub.Version{Generation: v.Generation})
			if err != nil || !ok || m.Version != v {
				t.Errorf("%q has version %v (%v, %v), want %v", topic, m.Version, ok, err, v)
			}
		}
		if n, err := transfer.Count(t.Context(), b); err != nil || n != second.Messages-cleared {
			t.Errorf("Count = %d, %v; want %d", n, err, second.Messages-cleared)
		}
		if contents(t, b, changed) != contents(t, source, changed) {
			t.Error("the stores differ in the other topics")
		}
	}
	for range 10 {
		at := r.IntN(len(file))
		t.Run(fmt.Sprintf("byte%d", at), func(t *testing.T) {
			b := openLocal(t, local.Options{})
			first, err := transfer.Import(t.Context(), bytes.NewReader(file[:at]), b, transfer.Options{})
			var line *transfer.LineError
			want := 1 + bytes.Count(file[:at], []byte("\n"))
			if !errors.Is(err, transfer.ErrDamaged) || !errors.As(err, &line) || line.Line != want {
				t.Fatalf("Import: %v, want ErrDamaged in line %d", err, want)
			}
			resume(t, first, b)
		})
	}
	for name, b := range map[string]transfer.Store{"cancelled": openLocal(t, local.Options{}), "cancelledNATS": openNATS(t)} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			first, err := transfer.Import(ctx, bytes.NewReader(file), b, transfer.Options{Progress: func(p transfer.Progress) {
				if p.Messages > 200 {
					cancel()
				}
			}})
			if !errors.Is(err, context.Canceled) || first.Imported <= 200 || first.Imported >= 700 {
				t.Fatalf("Import = %+v, %v", first, err)
			}
			resume(t, first, b)
		})
	}
}

// TestImportReplacesNothingNewer checks that an import never replaces a message or a clear that is
// as new as the message of the file.
func TestImportReplacesNothingNewer(t *testing.T) {
	at := func(minutes int) time.Time {
		return time.Now().Truncate(time.Minute).Add(time.Duration(minutes-60) * time.Minute)
	}
	source := openLocal(t, local.Options{})
	for _, topic := range []pubsub.Topic{"earlier", "later", "same", "cleared-earlier", "cleared-later", "none"} {
		put(t, source, pubsub.Message{Topic: topic, Data: []byte("file"), Published: at(10)})
	}
	file := export(t, source, transfer.Options{})
	for name, b := range map[string]transfer.Store{"local": openLocal(t, local.Options{}), "NATS": openNATS(t)} {
		t.Run(name, func(t *testing.T) {
			put(t, b, pubsub.Message{Topic: "earlier", Data: []byte("store"), Published: at(9)})
			put(t, b, pubsub.Message{Topic: "later", Data: []byte("store"), Published: at(11)})
			put(t, b, pubsub.Message{Topic: "same", Data: []byte("store"), Published: at(10)})
			put(t, b, pubsub.Message{Topic: "cleared-earlier", Published: at(9)})
			v := put(t, b, pubsub.Message{Topic: "cleared-later", Published: at(11)})
			put(t, b, pubsub.Message{Topic: "other", Data: []byte("store"), Published: at(1)})
			result := importAll(t, file, b, transfer.Options{})
			if result.Imported != 3 || result.Newer != 3 {
				t.Errorf("Import = %+v", result)
			}
			for topic, want := range map[pubsub.Topic]string{
				"earlier": "file", "later": "store", "same": "store", "cleared-earlier": "file", "cleared-later": "", "none": "file", "other": "store",
			} {
				m, _, err := b.Last(t.Context(), topic, pubsub.Version{Generation: v.Generation})
				if err != nil || string(m.Data) != want {
					t.Errorf("Last(%q) = %q, %v; want %q", topic, m.Data, err, want)
				}
			}
		})
	}
}

// TestOnlyAClear checks that an import recognises a clear in a store without messages.
func TestOnlyAClear(t *testing.T) {
	source := openLocal(t, local.Options{})
	put(t, source, pubsub.Message{Topic: "t", Data: []byte("x"), Published: time.Now()})
	file := export(t, source, transfer.Options{})
	b := openLocal(t, local.Options{})
	put(t, b, pubsub.Message{Topic: "t", Published: time.Now()})
	if result := importAll(t, file, b, transfer.Options{}); result.Newer != 1 {
		t.Errorf("Import = %+v", result)
	}
}

// TestExpiry checks that the time that a message spends in the file counts towards its TTL.
func TestExpiry(t *testing.T) {
	now := time.Now().Truncate(time.Second)
	clock := func() time.Time { return now }
	o := transfer.Options{Now: clock}
	source := openLocal(t, local.Options{Now: clock})
	put(t, source, pubsub.Message{Topic: "long", Data: []byte("x"), Published: now, HasTTL: true, TTL: 100})
	put(t, source, pubsub.Message{Topic: "short", Data: []byte("x"), Published: now, HasTTL: true, TTL: 50})
	put(t, source, pubsub.Message{Topic: "gone", Data: []byte("x"), Published: now, HasTTL: true, TTL: 10})
	now = now.Add(20 * time.Second)
	file := export(t, source, o)
	now = now.Add(30 * time.Second)
	b := openLocal(t, local.Options{Now: clock})
	put(t, b, pubsub.Message{Topic: "short", Data: []byte("older"), Published: now.Add(-time.Hour)})
	result := importAll(t, file, b, o)
	if result.Messages != 2 || result.Imported != 1 || result.Expired != 1 {
		t.Errorf("Import = %+v", result)
	}
	// An expired message does not replace an older one.
	m, ok, err := b.Last(t.Context(), "short", pubsub.Version{})
	if err != nil || !ok || string(m.Data) != "older" {
		t.Errorf("Last = %q, %v, %v; want \"older\"", m.Data, ok, err)
	}
	m, ok, err = b.Last(t.Context(), "long", pubsub.Version{})
	if err != nil || !ok || m.RemainingTTL(now) != 50 {
		t.Errorf("Last: ok %v, error %v, RemainingTTL %d s, want 50 s", ok, err, m.RemainingTTL(now))
	}
}

// faultyStore is a store whose Put replaces each message by another one.
type faultyStore struct {
	transfer.Store
	instead func(pubsub.Message) pubsub.Message
}

func (f faultyStore) Put(ctx context.Context, m pubsub.Message) func() (pubsub.Version, error) {
	if !m.Clears() {
		m = f.instead(m)
	}
	return f.Store.Put(ctx, m)
}

// TestReadBack imports into stores that do not keep the messages that they acknowledge.
func TestReadBack(t *testing.T) {
	source := openLocal(t, local.Options{})
	put(t, source, pubsub.Message{Topic: "t", Data: []byte("x"), Published: time.Now()})
	file := export(t, source, transfer.Options{})
	for name, instead := range map[string]func(pubsub.Message) pubsub.Message{
		"other topic": func(m pubsub.Message) pubsub.Message { m.Topic = "elsewhere"; return m },
		"other data":  func(m pubsub.Message) pubsub.Message { m.Data = []byte("y"); return m },
	} {
		b := faultyStore{openLocal(t, local.Options{}), instead}
		r, err := transfer.Import(t.Context(), bytes.NewReader(file), b, transfer.Options{})
		if !errors.Is(err, transfer.ErrNotStored) || r.Imported != 0 || !strings.HasPrefix(err.Error(), `line 2: topic "t": `) {
			t.Errorf("%s: Import = %+v, %v", name, r, err)
		}
	}
}
