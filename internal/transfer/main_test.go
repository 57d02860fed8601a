package transfer_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"go.uber.org/goleak"

	"pubsub"
	"pubsub/internal/backplane/local"
	"pubsub/internal/backplane/nats"
	"pubsub/internal/testkit/natsserver"
	"pubsub/internal/transfer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newRand returns a source of random numbers and logs its seed.
func newRand(t *testing.T) *rand.Rand {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// openLocal returns an embedded backplane that the test closes.
func openLocal(t testing.TB, o local.Options) *local.Backplane {
	t.Helper()
	if o.Dir == "" {
		o.InMemory = true
	}
	b, err := local.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	closeAfter(t, b)
	return b
}

// closeAfter closes b after the test.
func closeAfter(t testing.TB, b io.Closer) {
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
}

// openNATS returns a backplane on its own, real NATS server.
func openNATS(t testing.TB) *nats.Backplane {
	t.Helper()
	b, err := nats.Open(nats.Options{URLs: []string{natsserver.Run(t).URL()}, Wait: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	closeAfter(t, b)
	return b
}

// put puts m as a retained message.
func put(t testing.TB, b pubsub.Store, m pubsub.Message) pubsub.Version {
	t.Helper()
	m.Retain = true
	v, err := b.Put(t.Context(), m)()
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// export returns an export of b.
func export(t testing.TB, b transfer.Store, o transfer.Options) []byte {
	t.Helper()
	var file bytes.Buffer
	s, err := transfer.Export(t.Context(), &file, b, o)
	if err != nil {
		t.Fatal(err)
	}
	if s.Bytes != int64(file.Len()) {
		t.Errorf("the summary says %d bytes, but the export has %d", s.Bytes, file.Len())
	}
	return file.Bytes()
}

// importAll imports file into b.
func importAll(t testing.TB, file []byte, b transfer.Store, o transfer.Options) transfer.Result {
	t.Helper()
	r, err := transfer.Import(t.Context(), bytes.NewReader(file), b, o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// contents describes the messages and keys of b, without versions and without the topics in
// except.
func contents(t testing.TB, b transfer.Store, except map[pubsub.Topic]pubsub.Version) string {
	t.Helper()
	var s strings.Builder
	list, err := b.List(t.Context(), "", "", 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range list {
		if _, ok := except[l.Topic]; ok {
			continue
		}
		m, ok, err := b.Last(t.Context(), l.Topic, pubsub.Version{})
		if err != nil || !ok {
			t.Fatalf("Last(%q): %v, %v", l.Topic, ok, err)
		}
		fmt.Fprintf(&s, "%+q %x %v %v %d %q %x\n", m.Topic, sha256.Sum256(m.Data), m.Published.UTC(), m.HasTTL, m.TTL, m.Sender, m.Properties)
	}
	keys, err := b.Keys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range keys {
		fmt.Fprintf(&s, "%+q %+q %v\n", k.ID, k.Value, k.Created.UTC())
	}
	return s.String()
}

// randomTopic returns a random valid topic.
func randomTopic(r *rand.Rand) pubsub.Topic {
	for {
		var b []byte
		for n := 1 + r.IntN(1<<r.IntN(9)); n > 0; n-- {
			switch r.IntN(4) {
			case 0:
				b = append(b, "/. *>\"\\=%$&<'"[r.IntN(13)])
			case 1:
				b = utf8.AppendRune(b, rune(r.IntN(utf8.MaxRune)))
			default:
				b = append(b, byte(' '+r.IntN(95)))
			}
		}
		if t, err := pubsub.ParseTopic(string(b)); err == nil {
			return t
		}
	}
}

// randomBytes returns at least one and about most bytes at most, of a random kind.
func randomBytes(r *rand.Rand, most int) []byte {
	b := make([]byte, 1+r.IntN(1+r.IntN(most)))
	kind := r.IntN(4)
	for i := range b {
		switch kind {
		case 0:
			b[i] = byte(r.Uint32())
		case 1:
			b[i] = "\t\r\n\"\\<&>/u"[r.IntN(10)]
		case 2:
			b[i] = byte(r.IntN(128))
		default:
			b[i] = byte(' ' + r.IntN(95))
		}
	}
	if r.IntN(8) == 0 {
		b = append(b, "\u2028\ufffd\ufeffé"...)
	}
	return b
}

// randomMessage returns a message that does not expire for an hour.
func randomMessage(r *rand.Rand, now time.Time) pubsub.Message {
	m := pubsub.Message{
		Topic:     randomTopic(r),
		Data:      randomBytes(r, 2000),
		Retain:    true,
		Published: now.Add(-time.Duration(r.Int64N(int64(30 * 24 * time.Hour)))),
	}
	if r.IntN(2) == 0 {
		age := uint32(now.Sub(m.Published) / time.Second)
		m.HasTTL, m.TTL = true, age+3600+r.Uint32N(1<<r.IntN(32))
		if m.TTL < age {
			m.TTL = 1<<32 - 1
		}
	}
	if r.IntN(3) == 0 {
		m.Sender = string(randomBytes(r, 50))
		m.Properties = append([]byte{0x01, 0x01, 0x26, 0, 1, 'k'}, randomBytes(r, 50)...)
	}
	return m
}

// fill puts n random messages and some keys into b.
func fill(t testing.TB, r *rand.Rand, b transfer.Store, n int) {
	t.Helper()
	now := time.Now()
	var waits []func() (pubsub.Version, error)
	for range n {
		waits = append(waits, b.Put(t.Context(), randomMessage(r, now)))
	}
	for _, wait := range waits {
		if _, err := wait(); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 3 {
		k := pubsub.Key{ID: fmt.Sprintf("%x", r.Uint64()), Value: string(randomBytes(r, 64)), Created: now.Add(-time.Duration(i) * time.Hour).Truncate(time.Second)}
		if err := b.PutKey(t.Context(), k); err != nil {
			t.Fatal(err)
		}
	}
}
