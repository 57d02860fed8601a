package transfer_test

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"pubsub"
	"pubsub/internal/backplane/local"
	"pubsub/internal/transfer"
)

// FuzzImport imports files with random bytes after the first line. Each is imported
// completely or refused, and every imported message is exported again.
func FuzzImport(f *testing.F) {
	const head = `{"format":"pubsub-store","version":1,"exported":"2026-01-02T03:04:05Z"}` + "\n"
	clock := func() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) }
	o := transfer.Options{Now: clock}
	source := openLocal(f, local.Options{Now: clock})
	put(f, source, pubsub.Message{Topic: "a", Data: []byte("x"), Published: clock(), HasTTL: true, TTL: 5, Sender: "s", Properties: []byte{1, 1}})
	put(f, source, pubsub.Message{Topic: "b", Data: []byte{0xff}, Published: clock().Add(-time.Hour)})
	if err := source.PutKey(f.Context(), pubsub.Key{ID: "k", Value: "v", Created: clock()}); err != nil {
		f.Fatal(err)
	}
	for line := range bytes.Lines(export(f, source, o)) {
		f.Add(line)
	}
	f.Add(bytes.TrimPrefix(export(f, source, o), []byte(head)))
	f.Fuzz(func(t *testing.T, rest []byte) {
		// A correct footer lets the fuzzer find errors in the lines before it.
		body := bytes.TrimSuffix(append([]byte(head), rest...), []byte("\n"))
		file := []byte(rewrite(string(body)))
		if bytes.Contains(rest, []byte(`{"messages"`)) {
			file = append([]byte(head), rest...)
		}
		s, err := transfer.Check(t.Context(), bytes.NewReader(file), o)
		if err != nil {
			if !errors.Is(err, transfer.ErrDamaged) && !errors.Is(err, transfer.ErrNewerFormat) {
				t.Errorf("Check: %v", err)
			}
			return
		}
		b := openLocal(t, local.Options{Now: clock})
		r := importAll(t, file, b, o)
		if r.Summary != s || r.Imported+r.Expired != s.Messages {
			t.Errorf("Import = %+v, but Check = %+v", r, s)
		}
		again, err := transfer.Check(t.Context(), bytes.NewReader(export(t, b, o)), o)
		if err != nil || again.Messages != r.Imported || again.Keys != s.Keys {
			t.Errorf("Check of a second export = %+v, %v, after Import = %+v", again, err, r)
		}
	})
}
