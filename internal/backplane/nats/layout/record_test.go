package layout

import (
	"bytes"
	"errors"
	"reflect"
	"testing"
	"time"

	"pubsub"
)

func TestMessage(t *testing.T) {
	now := time.Now().UTC().Round(0)
	v := pubsub.Version{Generation: 7, Seq: 8}
	for _, m := range []pubsub.Message{
		{Topic: "t", Published: now},
		{Topic: "t", Data: []byte("data"), Published: now, Retain: true, Version: v},
		{Topic: "t", Data: []byte{0}, Published: now, HasTTL: true, TTL: 1<<32 - 1},
		{Topic: "t", Published: time.Unix(-1, 5).UTC(), HasTTL: true, Sender: "s\x00\xff", Properties: []byte{1, 2}, Data: []byte("d")},
	} {
		b := AppendMessage(nil, &m)
		if len(b) > MaxMessageBytes(&m) {
			t.Errorf("the record of %+v has %d bytes, MaxMessageBytes is %d", m, len(b), MaxMessageBytes(&m))
		}
		got, err := ParseMessage(m.Topic, m.Version, b)
		if err != nil || !reflect.DeepEqual(got, m) {
			t.Errorf("ParseMessage(AppendMessage(%+v)) = %+v, %v", m, got, err)
		}
		b[0]++
		if _, err := ParseMessage(m.Topic, m.Version, b); !errors.Is(err, ErrNewerFormat) {
			t.Errorf("record of the next version: error %v, want %v", err, ErrNewerFormat)
		}
		b[0]--
		b[flagsOffset] |= 0x80
		if _, err := ParseMessage(m.Topic, m.Version, b); !errors.Is(err, ErrNewerFormat) {
			t.Errorf("record with an unknown flag: error %v, want %v", err, ErrNewerFormat)
		}
	}
}

// JetStream keeps a message for at least its TTL, no matter how late it is stored.
func TestStreamTTL(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	for _, test := range []struct {
		m    pubsub.Message
		want int64
	}{
		{pubsub.Message{Retain: true, Data: []byte("d")}, 0},
		{pubsub.Message{Retain: true}, 86400},
		{pubsub.Message{Retain: true, HasTTL: true, TTL: 5}, 86400},
		{pubsub.Message{Retain: true, Data: []byte("d"), HasTTL: true}, 86400},
		{pubsub.Message{Retain: true, Data: []byte("d"), HasTTL: true, TTL: 60}, 60},
		{pubsub.Message{Retain: true, Data: []byte("d"), HasTTL: true, TTL: 60, Published: now.Add(-time.Second / 2)}, 60},
		{pubsub.Message{Retain: true, Data: []byte("d"), HasTTL: true, TTL: 60, Published: now.Add(-59 * time.Second)}, 1},
		{pubsub.Message{Retain: true, Data: []byte("d"), HasTTL: true, TTL: 60, Published: now.Add(-time.Hour)}, 1},
		{pubsub.Message{Retain: true, Data: []byte("d"), HasTTL: true, TTL: 1<<32 - 1}, 1<<32 - 1},
	} {
		if test.m.Published.IsZero() {
			test.m.Published = now
		}
		if got := StreamTTL(&test.m, now); got != test.want {
			t.Errorf("StreamTTL(%+v) = %d s, want %d", test.m, got, test.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(AppendMessage(nil, &pubsub.Message{Data: []byte("d"), Sender: "s", Properties: []byte{1}, HasTTL: true, TTL: 9}))
	f.Add(AppendKey(nil, pubsub.Key{Value: "v"}))
	f.Add(AppendGeneration(nil, 5))
	f.Add(AppendControl(nil, Control{Node: 5, Number: 6, Kind: "kind", Body: []byte("body")}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if m, err := ParseMessage("t", pubsub.Version{}, b); err == nil {
			again := AppendMessage(nil, &m)
			if n, err := ParseMessage("t", pubsub.Version{}, again); err != nil || !reflect.DeepEqual(m, n) {
				t.Errorf("ParseMessage(AppendMessage(%+v)) = %+v, %v", m, n, err)
			}
		}
		if k, err := ParseKey("id", b); err == nil && !bytes.Equal(AppendKey(nil, k), b) {
			t.Errorf("key %+v is not %x", k, b)
		}
		if g, err := ParseGeneration(b); err == nil && !bytes.Equal(AppendGeneration(nil, g), b) {
			t.Errorf("generation %x is not %x", g, b)
		}
		if c, err := ParseControl(b); err == nil {
			if again, err := ParseControl(AppendControl(nil, c)); err != nil || !reflect.DeepEqual(again, c) {
				t.Errorf("ParseControl(AppendControl(%+v)) = %+v, %v", c, again, err)
			}
		}
	})
}
