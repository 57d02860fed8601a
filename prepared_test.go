package pubsub_test

import (
	"sync"
	"sync/atomic"
	"testing"

	"pubsub"
)

func TestEachEncodingIsMadeOnce(t *testing.T) {
	pm := pubsub.NewPreparedMessage(pubsub.Message{Topic: "t", Data: []byte("x")})
	if pm.Topic != "t" || string(pm.Data) != "x" {
		t.Errorf("prepared message of %+v", pm.Message)
	}
	var calls [pubsub.NumEncodings]atomic.Int32
	var results [pubsub.NumEncodings][8][]byte
	var wg sync.WaitGroup
	for e := range pubsub.NumEncodings {
		for i := range results[e] {
			wg.Go(func() {
				results[e][i] = pm.Encoded(pubsub.Encoding(e), func(dst []byte, m *pubsub.Message) []byte {
					calls[e].Add(1)
					if len(dst) != 0 {
						t.Errorf("encode is called with %q", dst)
					}
					return append(append(dst, m.Topic...), m.Data[0], byte('0'+e))
				})
			})
		}
	}
	wg.Wait()
	for e := range results {
		if n := calls[e].Load(); n != 1 {
			t.Errorf("encoding %d is made %d times", e, n)
		}
		for _, b := range results[e] {
			if string(b) != "tx"+string(rune('0'+e)) || &b[0] != &results[e][0][0] {
				t.Errorf("encoding %d: %q, or it is not shared", e, b)
			}
		}
	}
}

// An encoding without bytes is made only once, too.
func TestEmptyEncoding(t *testing.T) {
	pm := pubsub.NewPreparedMessage(pubsub.Message{})
	calls := 0
	for range 2 {
		if b := pm.Encoded(0, func([]byte, *pubsub.Message) []byte { calls++; return nil }); len(b) != 0 {
			t.Errorf("encoding %q", b)
		}
	}
	if calls != 1 {
		t.Errorf("made %d times", calls)
	}
}

func TestEncodedAllocatesOnlyOnce(t *testing.T) {
	pm := pubsub.NewPreparedMessage(pubsub.Message{Topic: "t", Data: []byte("x")})
	encode := func(dst []byte, m *pubsub.Message) []byte { return append(dst, m.Data...) }
	pm.Encoded(0, encode)
	if n := testing.AllocsPerRun(100, func() { pm.Encoded(0, encode) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// Hold returns the size of a message once. Encodings made while the message has holders
// are counted at once.
func TestPreparedMessageCountsItsMemory(t *testing.T) {
	const holders, rounds = 8, 200
	for range 20 {
		var total atomic.Int64
		pm := pubsub.NewPreparedMessage(pubsub.Message{Topic: "t", Data: make([]byte, 100), Properties: make([]byte, 10), Sender: "sender"})
		pm.SetByteCounter(&total)
		if n := pm.Size(); n < 116 || n > 116+500 {
			t.Errorf("Size of a message of 116 bytes = %d", n)
		}
		var wg sync.WaitGroup
		for i := range holders {
			wg.Go(func() {
				for range rounds {
					total.Add(pm.Hold())
					pm.Encoded(pubsub.Encoding(i%pubsub.NumEncodings), func(dst []byte, m *pubsub.Message) []byte { return append(dst, m.Data...) })
					total.Add(-pm.Release())
				}
			})
		}
		wg.Wait()
		if n := total.Load(); n != 0 {
			t.Fatalf("%d bytes are counted without a holder", n)
		}
		if n := pm.Size(); n < 116+pubsub.NumEncodings*100 {
			t.Errorf("Size with %d encodings of 100 bytes = %d", pubsub.NumEncodings, n)
		}
		total.Add(pm.Hold())
		total.Add(pm.Hold())
		if n := total.Load(); n != pm.Size() {
			t.Errorf("%d bytes are counted with two holders, want %d", n, pm.Size())
		}
	}
}
