package local

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"
	"time"

	"pubsub"
	"pubsub/internal/testkit"
)

// TestRecordLayout pins the bytes of records, because other releases read them.
func TestRecordLayout(t *testing.T) {
	at := time.Unix(1_700_000_000, 5)
	for _, c := range []struct {
		name string
		m    pubsub.Message
		want string
	}{
		{"message", pubsub.Message{Data: []byte("data"), Published: at, Sender: "me", Properties: []byte{1, 1}},
			"\x01" + "\x00\x00\x00\x00\x00\x00\x00\x07" + "\x00" + "\x00\x00\x00\x00\x65\x53\xf1\x00" + "\x00\x00\x00\x05" + "\x00\x00\x00\x00" + "\x02me" + "\x02\x01\x01" + "data"},
		{"expiry", pubsub.Message{Data: []byte("d"), Published: at, HasTTL: true, TTL: 258},
			"\x01" + "\x00\x00\x00\x00\x00\x00\x00\x07" + "\x02" + "\x00\x00\x00\x00\x65\x53\xf1\x00" + "\x00\x00\x00\x05" + "\x00\x00\x01\x02" + "\x00" + "\x00" + "d"},
		{"clear", pubsub.Message{Data: []byte("gone"), Published: at, HasTTL: true},
			"\x01" + "\x00\x00\x00\x00\x00\x00\x00\x07" + "\x01" + "\x00\x00\x00\x00\x65\x53\xf1\x00" + "\x00\x00\x00\x05" + "\x00\x00\x00\x00" + "\x00" + "\x00"},
	} {
		h := headOf(&c.m)
		h.seq = 7
		if got := appendRecord(nil, &c.m, &h); string(got) != c.want {
			t.Errorf("%s: record %q, want %q", c.name, got, c.want)
		}
	}
	h := recordHead{published: at, hasTTL: true, ttl: 60}
	if key, ok := appendExpiryKey(nil, &h, "t"); !ok || string(key) != "x\x80\x00\x00\x00\x65\x53\xf1\x3dt" {
		t.Errorf("expiry key %q, %v", key, ok)
	}
	key := pubsub.Key{ID: "id", Value: "v", Created: at}
	if got := appendKey(nil, key); string(got) != "\x01\x00\x00\x00\x00\x65\x53\xf1\x00v" {
		t.Errorf("key %q", got)
	}
}

// TestExpiryKeyOrder checks that expiry keys sort by time, also before 1970.
func TestExpiryKeyOrder(t *testing.T) {
	var prev []byte
	for _, sec := range []int64{-62135596800, -1, 0, 1, 1_700_000_000, 1 << 40} {
		key := appendExpiryTime(nil, time.Unix(sec, 0))
		if bytes.Compare(prev, key) >= 0 {
			t.Errorf("the key of %d does not sort after its predecessor", sec)
		}
		prev = key
	}
}

func FuzzRecord(f *testing.F) {
	for _, m := range []pubsub.Message{
		{Topic: "t", Published: time.Unix(1, 2), Data: []byte("x")},
		{Topic: "t", Published: time.Unix(-1, 2), Data: []byte("x"), HasTTL: true, TTL: 1 << 31, Sender: "s", Properties: []byte("p")},
		{Topic: "t"},
	} {
		h := headOf(&m)
		h.seq = 1 << 50
		f.Add(appendRecord(nil, &m, &h))
	}
	f.Add([]byte{})
	f.Add([]byte{1, fixedBytes: 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		m, h, err := parseRecord("t", 3, b)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrNewerFormat) {
				t.Errorf("error %v", err)
			}
			return
		}
		if head, err := parseHead(b); err != nil || head != h {
			t.Errorf("parseHead = %+v, %v, want %+v", head, err, h)
		}
		again := appendRecord(nil, &m, &h)
		m2, h2, err := parseRecord("t", 3, again)
		if err != nil || h2 != h || m2.Sender != m.Sender || !bytes.Equal(m2.Data, m.Data) || !bytes.Equal(m2.Properties, m.Properties) || m2.Version != m.Version {
			t.Errorf("%+v came back as %+v, error %v", m, m2, err)
		}
		if n := recordSize(&m, &h); n != len(again) {
			t.Errorf("recordSize %d, the record has %d bytes", n, len(again))
		}
	})
}

func FuzzChunk(f *testing.F) {
	payload := []byte("payload")
	for kind := byte(1); kind <= 12; kind++ {
		b := make([]byte, 7, 64)
		binary.LittleEndian.PutUint16(b[4:], uint16(len(payload)))
		b[6] = kind
		b = append(b, make([]byte, chunkKinds[kind].header-7)...)
		b = append(b, payload...)
		binary.LittleEndian.PutUint32(b, maskedCRC(b[6:]))
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for i := range b {
			if c, ok := parseChunk(b, i); ok && (c.end > len(b) || c.end < i+7) {
				t.Errorf("chunk at %d ends at %d of %d", i, c.end, len(b))
			}
		}
	})
}

// TestAllocations bounds the allocations of a Put and a Last. The engine's buffers are
// pooled; the bounds leave a little for buffers lost to a garbage collection.
func TestAllocations(t *testing.T) {
	b := open(t, Options{InMemory: true})
	defer b.Close()
	ctx := t.Context()
	m := pubsub.Message{Topic: "allocations", Data: make([]byte, 128), Published: time.Now(), Sender: "s", Properties: []byte("p")}
	put := testing.AllocsPerRun(1000, func() {
		if _, err := b.Put(ctx, m)(); err != nil {
			t.Fatal(err)
		}
	})
	last := testing.AllocsPerRun(1000, func() {
		if _, ok, err := b.Last(ctx, m.Topic, pubsub.Version{}); !ok || err != nil {
			t.Fatal(ok, err)
		}
	})
	if testkit.Race {
		return // the race detector's pools let things go
	}
	if put > 2 { // the function that waits
		t.Errorf("a Put allocates %v times, want 2 at most", put)
	}
	if last > 3 { // the record, the sender
		t.Errorf("a Last allocates %v times, want 3 at most", last)
	}
}
