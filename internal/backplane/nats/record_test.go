package nats

import (
	"bytes"
	"errors"
	"reflect"
	"testing"
	"time"

	"pubsub"
)

func TestRecord(t *testing.T) {
	now := time.Now().UTC().Round(0)
	v := pubsub.Version{Generation: 7, Seq: 8}
	for _, m := range []pubsub.Message{
		{Topic: "t", Published: now},
		{Topic: "t", Data: []byte("data"), Published: now, Retain: true, Version: v},
		{Topic: "t", Data: []byte{0}, Published: now, HasTTL: true, TTL: 1<<32 - 1},
		{Topic: "t", Published: time.Unix(-1, 5).UTC(), HasTTL: true, Sender: "s\x00\xff", Properties: []byte{1, 2}, Data: []byte("d")},
	} {
		b := appendRecord(nil, &m)
		if len(b) > recordSize(&m) {
			t.Errorf("the record of %+v has %d bytes, recordSize says %d", m, len(b), recordSize(&m))
		}
		got, err := parseRecord(m.Topic, m.Version, b)
		if err != nil || !reflect.DeepEqual(got, m) {
			t.Errorf("the record of %+v is read as %+v, %v", m, got, err)
		}
		b[0]++
		if _, err := parseRecord(m.Topic, m.Version, b); !errors.Is(err, ErrNewerFormat) {
			t.Errorf("a record of the next version: %v", err)
		}
		b[0]--
		b[flagsOffset] |= 0x80
		if _, err := parseRecord(m.Topic, m.Version, b); !errors.Is(err, ErrNewerFormat) {
			t.Errorf("a record with another flag: %v", err)
		}
	}
}

// How long JetStream keeps a message covers its life, whenever it is stored.
func TestLife(t *testing.T) {
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
		if got := lifeOf(&test.m, now); got != test.want {
			t.Errorf("%+v is kept for %d s, want %d", test.m, got, test.want)
		}
	}
}

func FuzzRecord(f *testing.F) {
	f.Add(appendRecord(nil, &pubsub.Message{Data: []byte("d"), Sender: "s", Properties: []byte{1}, HasTTL: true, TTL: 9}))
	f.Add(appendKey(nil, pubsub.Key{Value: "v"}))
	f.Add(appendGeneration(nil, 5))
	f.Add(appendControl(nil, 5, 6, "kind", []byte("body")))
	f.Fuzz(func(t *testing.T, b []byte) {
		if m, err := parseRecord("t", pubsub.Version{}, b); err == nil {
			again := appendRecord(nil, &m)
			if n, err := parseRecord("t", pubsub.Version{}, again); err != nil || !reflect.DeepEqual(m, n) {
				t.Errorf("%+v is read back as %+v, %v", m, n, err)
			}
		}
		if k, err := parseKey("id", b); err == nil && !bytes.Equal(appendKey(nil, k), b) {
			t.Errorf("key %+v is not %x", k, b)
		}
		if g, err := parseGenerationRecord(b); err == nil && !bytes.Equal(appendGeneration(nil, g), b) {
			t.Errorf("generation %x is not %x", g, b)
		}
		if node, number, kind, body, err := parseControl(b); err == nil {
			again := appendControl(nil, node, number, kind, body)
			if n, nu, k, bo, err := parseControl(again); err != nil || n != node || nu != number || k != kind || !bytes.Equal(bo, body) {
				t.Errorf("control %x %q %x is read back as %x %q %x, %v", node, kind, body, n, k, bo, err)
			}
		}
	})
}
