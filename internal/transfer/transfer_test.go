package transfer_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"runtime/metrics"
	"strings"
	"testing"
	"time"

	"pubsub"
	"pubsub/internal/backplane/local"
	"pubsub/internal/testkit"
	"pubsub/internal/transfer"
)

// What was kept is kept again, whichever way it goes, and the file of it is the
// same to a byte.
func TestRoundTrip(t *testing.T) {
	r := seeded(t)
	began := time.Now()
	o := transfer.Options{Now: func() time.Time { return began }}
	first := openLocal(t, local.Options{})
	fill(t, r, first, 1000)
	want := kept(t, first, nil)
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
		if got := kept(t, to, nil); got != want {
			t.Fatalf("step %d: kept\n%s\nwant\n%s", i, got, want)
		}
		if n, err := transfer.Count(t.Context(), to); n != s.Messages || err != nil {
			t.Errorf("step %d: Count = %d, %v; want %d", i, n, err, s.Messages)
		}
		again := export(t, to, o)
		if !bytes.Equal(again, file) {
			t.Fatalf("step %d: the file of what was imported is another", i)
		}
		from, file = to, again
	}
	// What is there already is left alone.
	result := importAll(t, file, from, o)
	if result.Present != result.Messages || result.Imported != 0 || result.KeysPresent != 3 || result.KeysImported != 0 {
		t.Errorf("a second time: %+v", result)
	}
}

func TestNothing(t *testing.T) {
	for name, open := range map[string]func() transfer.Store{
		"local": func() transfer.Store { return openLocal(t, local.Options{}) },
		"NATS":  func() transfer.Store { return openNATS(t) },
	} {
		file := export(t, open(), transfer.Options{})
		if got := bytes.Count(file, []byte("\n")); got != 2 {
			t.Errorf("%s: a file of nothing has %d lines:\n%s", name, got, file)
		}
		b := open()
		importAll(t, file, b, transfer.Options{})
		if got := kept(t, b, nil); got != "" {
			t.Errorf("%s: kept %s", name, got)
		}
	}
}

// An import that was cut off anywhere is finished by the next one, and what
// happened in between stays.
func TestResume(t *testing.T) {
	r := seeded(t)
	source := openLocal(t, local.Options{})
	fill(t, r, source, 700)
	file := export(t, source, transfer.Options{})
	cut := func(t *testing.T, first transfer.Result, b transfer.Store) {
		list, err := b.List(t.Context(), "", "", 1000)
		if err != nil || len(list) != first.Imported {
			t.Fatalf("%d messages after the cut, %v; want %d", len(list), err, first.Imported)
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
			t.Errorf("%d published and %d cleared since: %+v after %+v", published, cleared, second, first)
		}
		for topic, v := range changed {
			m, ok, err := b.Last(t.Context(), topic, pubsub.Version{Generation: v.Generation})
			if err != nil || !ok || m.Version != v {
				t.Errorf("%q has version %v (%v, %v), want %v", topic, m.Version, ok, err, v)
			}
		}
		if n, err := transfer.Count(t.Context(), b); err != nil || n != second.Messages-cleared {
			t.Errorf("%d messages, %v; want %d", n, err, second.Messages-cleared)
		}
		if kept(t, b, changed) != kept(t, source, changed) {
			t.Error("the rest of the stores differs")
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
				t.Fatalf("%v, want ErrDamaged in line %d", err, want)
			}
			cut(t, first, b)
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
				t.Fatalf("%v after %+v", err, first)
			}
			cut(t, first, b)
		})
	}
}

// Whichever is published later is what stays.
func TestNeverBack(t *testing.T) {
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
				t.Errorf("%+v", result)
			}
			for topic, want := range map[pubsub.Topic]string{
				"earlier": "file", "later": "store", "same": "store", "cleared-earlier": "file", "cleared-later": "", "none": "file", "other": "store",
			} {
				m, _, err := b.Last(t.Context(), topic, pubsub.Version{Generation: v.Generation})
				if err != nil || string(m.Data) != want {
					t.Errorf("%s: %q, %v; want %q", topic, m.Data, err, want)
				}
			}
		})
	}
}

// A clear is seen in a store that has nothing else.
func TestNothingButAClear(t *testing.T) {
	source := openLocal(t, local.Options{})
	put(t, source, pubsub.Message{Topic: "t", Data: []byte("x"), Published: time.Now()})
	file := export(t, source, transfer.Options{})
	b := openLocal(t, local.Options{})
	put(t, b, pubsub.Message{Topic: "t", Published: time.Now()})
	if result := importAll(t, file, b, transfer.Options{}); result.Newer != 1 {
		t.Errorf("%+v", result)
	}
}

// The time that a message spends in the file is a part of its life.
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
		t.Errorf("%+v", result)
	}
	// What has expired takes the place of nothing.
	m, ok, err := b.Last(t.Context(), "short", pubsub.Version{})
	if err != nil || !ok || string(m.Data) != "older" {
		t.Errorf("%q, %v, %v; want older", m.Data, ok, err)
	}
	m, ok, err = b.Last(t.Context(), "long", pubsub.Version{})
	if err != nil || !ok || m.RemainingTTL(now) != 50 {
		t.Errorf("%v, %v: %d s are left of 50", ok, err, m.RemainingTTL(now))
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
		t.Error("an export without keys has one")
	}

	other := key
	other.Value = "an0ther"
	if err := b.PutKey(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	_, err := transfer.Import(t.Context(), bytes.NewReader(file), b, transfer.Options{})
	if want := `line 2: signing key "id": the store has a signing key of that id with another value; delete one of the two, or import without keys`; !errors.Is(err, transfer.ErrKeyDiffers) || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}

	if err := source.PutKey(t.Context(), pubsub.Key{ID: "\xff", Value: "x"}); err != nil {
		t.Fatal(err)
	}
	if _, err := transfer.Export(t.Context(), io.Discard, source, transfer.Options{}); err == nil || !strings.Contains(err.Error(), "is not UTF-8") {
		t.Errorf("a key that JSON cannot name: %v", err)
	}
}

// faulty is a store that puts something else in place of what it is given.
type faulty struct {
	transfer.Store
	instead func(pubsub.Message) pubsub.Message
}

func (f faulty) Put(ctx context.Context, m pubsub.Message) func() (pubsub.Version, error) {
	if !m.Clears() {
		m = f.instead(m)
	}
	return f.Store.Put(ctx, m)
}

// What a store has acknowledged is looked for in it.
func TestReadBack(t *testing.T) {
	source := openLocal(t, local.Options{})
	put(t, source, pubsub.Message{Topic: "t", Data: []byte("x"), Published: time.Now()})
	file := export(t, source, transfer.Options{})
	for name, instead := range map[string]func(pubsub.Message) pubsub.Message{
		"nothing":        func(m pubsub.Message) pubsub.Message { m.Topic = "elsewhere"; return m },
		"something else": func(m pubsub.Message) pubsub.Message { m.Data = []byte("y"); return m },
	} {
		b := faulty{openLocal(t, local.Options{}), instead}
		r, err := transfer.Import(t.Context(), bytes.NewReader(file), b, transfer.Options{})
		if !errors.Is(err, transfer.ErrNotKept) || r.Imported != 0 || !strings.HasPrefix(err.Error(), `line 2: topic "t": `) {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
}

// rewrite returns the file of these lines, with a footer that fits them.
func rewrite(lines ...string) string {
	body := strings.Join(lines, "\n") + "\n"
	keys := strings.Count(body, "\n{\"id\":")
	messages := strings.Count(body, "\n{\"topic\":")
	return fmt.Sprintf("%s{\"messages\":%d,\"keys\":%d,\"sha256\":\"%x\"}\n", body, messages, keys, sha256.Sum256([]byte(body)))
}

func TestBadFiles(t *testing.T) {
	const (
		head = `{"format":"pubsub-store","version":1,"exported":"2026-01-02T03:04:05Z"}`
		a    = `{"topic":"a","published":"2026-01-02T03:04:05Z","data":"x"}`
		b    = `{"topic":"b","published":"2026-01-02T03:04:05.123456789Z","expires":"2162-01-02T03:04:05.123456789Z","data":"x"}`
		key  = `{"id":"k","value":"s3cret","created":"2026-01-02T03:04:05Z"}`
	)
	if _, err := transfer.Check(t.Context(), strings.NewReader(rewrite(head, key, a, b)), transfer.Options{}); err != nil {
		t.Fatalf("a good file: %v", err)
	}
	for _, tt := range []struct {
		name, file, want string
		is               error
	}{
		{"nothing", "", "line 1: export damaged: the file is empty", transfer.ErrDamaged},
		{"another file", "hello\n", "line 1: export damaged: the file does not begin as an export does", transfer.ErrDamaged},
		{"binary", "\x7fELF\x00\xff\n", "line 1: export damaged: the file does not begin as an export does", transfer.ErrDamaged},
		{"another format", `{"format":"other","version":1}` + "\n", "line 1: export damaged: the file does not begin as an export does", transfer.ErrDamaged},
		{"newer", strings.Replace(rewrite(head, a), `"version":1`, `"version":2`, 1), "line 1: export of a newer format: format 2, and this release reads up to 1; use the release that wrote it, or a later one", transfer.ErrNewerFormat},
		{"newer with more", `{"format":"pubsub-store","version":3,"exported":"2026-01-02T03:04:05Z","more":{}}` + "\n", "line 1: export of a newer format: format 3,", transfer.ErrNewerFormat},
		{"older", strings.Replace(rewrite(head, a), `"version":1`, `"version":0`, 1), "line 1: export damaged: the file does not begin", transfer.ErrDamaged},
		{"no JSON", rewrite(head, a, `{"topic":"b",`), "line 3: export damaged: unexpected EOF", transfer.ErrDamaged},
		{"two values", rewrite(head, a+" 1"), "line 2: export damaged: more than one value", transfer.ErrDamaged},
		{"blank line", rewrite(head, "", a), "line 2: export damaged: no line of an export", transfer.ErrDamaged},
		{"unknown key", rewrite(head, strings.Replace(a, `"data"`, `"qos":1,"data"`, 1)), `line 2: export damaged: json: unknown field "qos"`, transfer.ErrDamaged},
		{"no UTF-8", rewrite(head, strings.Replace(a, "x", "\xff", 1)), "line 2: export damaged: not UTF-8", transfer.ErrDamaged},
		{"bad base64", rewrite(head, strings.Replace(a, `"data":"x"`, `"base64":"x"`, 1)), "line 2: export damaged: illegal base64", transfer.ErrDamaged},
		{"both", rewrite(head, strings.Replace(a, `"data"`, `"base64":"eA==","data"`, 1)), "line 2: export damaged: content in two spellings", transfer.ErrDamaged},
		{"no content", rewrite(head, strings.Replace(a, `"x"`, `""`, 1)), "line 2: export damaged: no content", transfer.ErrDamaged},
		{"no topic", rewrite(head, strings.Replace(a, `"a"`, `"a+"`, 1)), `line 2: export damaged: "a+" is no topic`, transfer.ErrDamaged},
		{"no life", rewrite(head, strings.Replace(b, "2162", "2026", 1)), "line 2: export damaged: it expires 0s after it was published", transfer.ErrDamaged},
		{"long life", rewrite(head, strings.Replace(b, "2162", "9999", 1)), "line 2: export damaged: it expires 2562047h47m16.854775807s after it was published", transfer.ErrDamaged},
		{"part of a second", rewrite(head, strings.Replace(b, ".123456789Z", "Z", 1)), "line 2: export damaged: it expires ", transfer.ErrDamaged},
		{"bad time", rewrite(head, strings.Replace(a, "2026", "20x6", 1)), "line 2: export damaged: parsing time", transfer.ErrDamaged},
		{"order", rewrite(head, b, a), `line 3: export damaged: topic "a" does not come after "b" in byte order; make a new export`, transfer.ErrDamaged},
		{"twice", rewrite(head, a, a), `line 3: export damaged: topic "a" does not come after "a"`, transfer.ErrDamaged},
		{"key twice", rewrite(head, key, key), `line 3: export damaged: signing key "k" does not come after "k"`, transfer.ErrDamaged},
		{"key last", rewrite(head, a, key), "line 3: export damaged: a signing key after messages", transfer.ErrDamaged},
		{"key without id", rewrite(head, strings.Replace(key, `"k"`, `""`, 1)), "line 2: export damaged: a key without an id", transfer.ErrDamaged},
		{"key without value", rewrite(head, strings.Replace(key, `"s3cret"`, `""`, 1)), "line 2: export damaged: no content", transfer.ErrDamaged},
		{"a line is missing", strings.Replace(rewrite(head, a, b), a+"\n", "", 1), "line 3: export damaged: the file was written with 2 messages and 0 keys, and has 1 and 0", transfer.ErrDamaged},
		{"a line is another", strings.Replace(rewrite(head, a, b), `"x"`, `"y"`, 1), "line 4: export damaged: the lines before it have the SHA-256 checksum ", transfer.ErrDamaged},
		{"no footer", head + "\n" + a + "\n", "line 3: export damaged: the file is cut short here", transfer.ErrDamaged},
		{"half a line", head + "\n" + a, "line 2: export damaged: the file is cut short here", transfer.ErrDamaged},
		{"more", rewrite(head, a) + "\n", "line 4: export damaged: there is something after the last line", transfer.ErrDamaged},
	} {
		_, err := transfer.Check(t.Context(), strings.NewReader(tt.file), transfer.Options{})
		if !errors.Is(err, tt.is) || !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %s", tt.name, err, tt.want)
		}
		if err != nil && strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: the error tells a secret: %v", tt.name, err)
		}
	}
	broken := errors.New("broken disk")
	if _, err := transfer.Check(t.Context(), io.MultiReader(strings.NewReader(head), failing{broken}), transfer.Options{}); !errors.Is(err, broken) || errors.Is(err, transfer.ErrDamaged) {
		t.Errorf("a broken disk: %v", err)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// No damage goes unnoticed: neither a changed byte nor one that is missing or too
// many.
func TestDamage(t *testing.T) {
	r := seeded(t)
	source := openLocal(t, local.Options{})
	fill(t, r, source, 20)
	file := export(t, source, transfer.Options{})
	for range 1000 {
		at := r.IntN(len(file))
		bad := bytes.Clone(file)
		what := "changed"
		switch r.IntN(3) {
		case 0:
			bad[at] ^= 1 << r.IntN(8)
		case 1:
			bad, what = append(bad[:at], bad[at+1:]...), "missing"
		case 2:
			bad, what = append(append(bad[:at:at], byte(r.Uint32())), file[at:]...), "too many"
		}
		_, err := transfer.Check(t.Context(), bytes.NewReader(bad), transfer.Options{})
		// In the last line, the spelling of keys and spaces is free.
		last := bytes.LastIndexByte(file[:len(file)-1], '\n')
		if err == nil && at > last && sameFooter(bad[last+1:], file[last+1:]) {
			continue
		}
		if !errors.Is(err, transfer.ErrDamaged) && !errors.Is(err, transfer.ErrNewerFormat) {
			t.Errorf("byte %d %s: %v", at, what, err)
		}
	}
}

func sameFooter(a, b []byte) bool {
	var x, y struct {
		Messages, Keys int
		SHA256         string
	}
	return json.Unmarshal(a, &x) == nil && json.Unmarshal(b, &y) == nil && x == y
}

// endless is a line without an end.
type endless struct{ n int64 }

func (e *endless) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = 'x'
	}
	e.n += int64(len(b))
	return len(b), nil
}

// A line without an end is given up where no message can be so long.
func TestEndlessLine(t *testing.T) {
	var e endless
	_, err := transfer.Check(t.Context(), &e, transfer.Options{})
	if !errors.Is(err, transfer.ErrDamaged) || !strings.Contains(err.Error(), "longer than") {
		t.Errorf("%v", err)
	}
	if e.n > 41<<20 {
		t.Errorf("%d bytes were read", e.n)
	}
}

// The longest message goes through, be it the worst there is for JSON.
func TestLongestMessage(t *testing.T) {
	source := openLocal(t, local.Options{})
	for topic, data := range map[pubsub.Topic]string{"text": `"`, "bytes": "\x00"} {
		put(t, source, pubsub.Message{Topic: topic, Data: bytes.Repeat([]byte(data), 16<<20), Published: time.Now(), Sender: strings.Repeat("s", 1<<16)})
	}
	want := kept(t, source, nil)
	b := openLocal(t, local.Options{})
	importAll(t, export(t, source, transfer.Options{}), b, transfer.Options{})
	if kept(t, b, nil) != want {
		t.Error("the stores differ")
	}
}

// A hundred thousand messages do not pass through memory all at once.
func TestMemory(t *testing.T) {
	n, size := 100_000, 300
	if testkit.Race { // it takes ten times as long
		n, size = 20_000, 1500
	}
	source := openLocal(t, local.Options{Dir: t.TempDir()})
	r := seeded(t)
	text := make([]byte, 1<<20)
	for i := range text {
		text[i] = byte(' ' + r.IntN(95))
	}
	waits := make([]func() (pubsub.Version, error), 0, 1000)
	for i := range n {
		at := r.IntN(len(text) - size)
		waits = append(waits, source.Put(t.Context(), pubsub.Message{Topic: pubsub.Topic(fmt.Sprint("sensor/", i)), Data: text[at : at+size], Retain: true, Published: time.Now()}))
		if len(waits) == cap(waits) {
			for _, wait := range waits {
				if _, err := wait(); err != nil {
					t.Fatal(err)
				}
			}
			waits = waits[:0]
		}
	}
	b := openLocal(t, local.Options{Dir: t.TempDir()})
	name := t.TempDir() + "/file"
	round := func(g *heapGauge) transfer.Result {
		if err := transfer.WriteFile(name, func(w io.Writer) error {
			g.w = w
			_, err := transfer.Export(t.Context(), g, source, transfer.Options{})
			return err
		}); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		g.r = f
		result, err := transfer.Import(t.Context(), g, b, transfer.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return result
	}
	if result := round(&heapGauge{most: math.MaxUint64}); result.Imported != n {
		t.Errorf("%+v", result)
	}
	round(&heapGauge{most: math.MaxUint64}) // fills the caches of the stores
	before := live()
	g := &heapGauge{}
	result := round(g)
	if result.Present != n {
		t.Errorf("%+v", result)
	}
	grown := int64(g.most) - int64(before)
	t.Logf("%d bytes of file; the heap grew by %d bytes at most", result.Bytes, grown)
	if grown > result.Bytes/3 {
		t.Errorf("the heap grew by %d bytes, which is too much of the file's %d", grown, result.Bytes)
	}
}

// heapGauge looks at the heap each time that some more of a file went through it,
// unless it has seen the most there can be.
type heapGauge struct {
	r     io.Reader
	w     io.Writer
	bytes int
	most  uint64
}

func (g *heapGauge) Read(b []byte) (int, error) {
	n, err := g.r.Read(b)
	g.passed(n)
	return n, err
}

func (g *heapGauge) Write(b []byte) (int, error) {
	g.passed(len(b))
	return g.w.Write(b)
}

func (g *heapGauge) passed(n int) {
	if g.bytes += n; g.bytes >= 1<<20 && g.most < math.MaxUint64 {
		g.bytes = 0
		g.most = max(g.most, live())
	}
}

// live is how many bytes of the heap are in use.
func live() uint64 {
	runtime.GC()
	runtime.GC() // what was in pools
	s := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}
