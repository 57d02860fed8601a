package transfer_test

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"pubsub"
	"pubsub/internal/backplane/local"
	"pubsub/internal/transfer"
)

// TestRoundTrip copies a store to NATS and back. Each store has the same contents, and each
// export is the same to the byte.
func TestRoundTrip(t *testing.T) {
	r := newRand(t)
	began := time.Now()
	o := transfer.Options{Now: func() time.Time { return began }}
	first := openLocal(t, local.Options{})
	fill(t, r, first, 1000)
	want := contents(t, first, nil)
	file := export(t, first, o)
	var from transfer.Store = first
	for i, to := range []transfer.Store{openNATS(t), openLocal(t, local.Options{Dir: t.TempDir()})} {
		s, err := transfer.Check(t.Context(), bytes.NewReader(file), o)
		if err != nil {
			t.Fatal(err)
		}
		result := importAll(t, file, to, o)
		if result.Summary != s || result.Imported != s.Messages || result.KeysImported != 3 || s.Keys != 3 {
			t.Errorf("step %d: %+v of %+v", i, result, s)
		}
		if got := contents(t, to, nil); got != want {
			t.Fatalf("step %d: the store has\n%s\nwant\n%s", i, got, want)
		}
		if n, err := transfer.Count(t.Context(), to); n != s.Messages || err != nil {
			t.Errorf("step %d: Count = %d, %v; want %d", i, n, err, s.Messages)
		}
		again := export(t, to, o)
		if !bytes.Equal(again, file) {
			t.Fatalf("step %d: the export of the imported store differs", i)
		}
		from, file = to, again
	}
	// A second import changes nothing.
	result := importAll(t, file, from, o)
	if result.Present != result.Messages || result.Imported != 0 || result.KeysPresent != 3 || result.KeysImported != 0 {
		t.Errorf("second import: %+v", result)
	}
}

func TestEmptyStore(t *testing.T) {
	for name, open := range map[string]func() transfer.Store{
		"local": func() transfer.Store { return openLocal(t, local.Options{}) },
		"NATS":  func() transfer.Store { return openNATS(t) },
	} {
		file := export(t, open(), transfer.Options{})
		if got := bytes.Count(file, []byte("\n")); got != 2 {
			t.Errorf("%s: the export of an empty store has %d lines:\n%s", name, got, file)
		}
		b := open()
		importAll(t, file, b, transfer.Options{})
		if got := contents(t, b, nil); got != "" {
			t.Errorf("%s: the store has %s", name, got)
		}
	}
}

func TestKeys(t *testing.T) {
	key := pubsub.Key{ID: "id", Value: "s3cret", Created: time.Now().Truncate(time.Second)}
	source := openLocal(t, local.Options{})
	if err := source.PutKey(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	put(t, source, pubsub.Message{Topic: "t", Data: []byte("x"), Published: time.Now()})
	file := export(t, source, transfer.Options{})

	b := openLocal(t, local.Options{})
	if r := importAll(t, file, b, transfer.Options{WithoutKeys: true}); r.KeysImported+r.KeysPresent != 0 || r.Imported != 1 || r.Keys != 1 {
		t.Errorf("without keys: %+v", r)
	}
	if keys, err := b.Keys(t.Context()); len(keys) != 0 || err != nil {
		t.Errorf("%d keys, %v", len(keys), err)
	}
	if bytes.Contains(export(t, source, transfer.Options{WithoutKeys: true}), []byte("s3cret")) {
		t.Error("an export without keys contains a key")
	}

	other := key
	other.Value = "an0ther"
	if err := b.PutKey(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	_, err := transfer.Import(t.Context(), bytes.NewReader(file), b, transfer.Options{})
	if want := `line 2: signing key "id": the store has a signing key with the same id and another value; delete one of the two, or import without keys`; !errors.Is(err, transfer.ErrKeyDiffers) || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}

	if err := source.PutKey(t.Context(), pubsub.Key{ID: "\xff", Value: "x"}); err != nil {
		t.Fatal(err)
	}
	if _, err := transfer.Export(t.Context(), io.Discard, source, transfer.Options{}); err == nil || !strings.Contains(err.Error(), "is not UTF-8") {
		t.Errorf("export of a key whose id is not UTF-8: %v", err)
	}
}

// TestLongestMessage copies messages of the maximal size whose bytes need the most space in
// JSON.
func TestLongestMessage(t *testing.T) {
	source := openLocal(t, local.Options{})
	for topic, data := range map[pubsub.Topic]string{"text": `"`, "bytes": "\x00"} {
		put(t, source, pubsub.Message{Topic: topic, Data: bytes.Repeat([]byte(data), 16<<20), Published: time.Now(), Sender: strings.Repeat("s", 1<<16)})
	}
	want := contents(t, source, nil)
	b := openLocal(t, local.Options{})
	importAll(t, export(t, source, transfer.Options{}), b, transfer.Options{})
	if contents(t, b, nil) != want {
		t.Error("the stores differ")
	}
}
