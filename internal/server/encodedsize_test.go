package server

import (
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"pubsub"
)

// No encoding is longer than MaxEncodedSize, even with the worst content. For ordinary messages
// the bound is close, so that many fit into a piece.
func TestMaxEncodedSize(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	encoders := append(sseEncoders[:], appendMessage, appendRetainMessage)
	if len(encoders) != pubsub.NumEncodings {
		t.Fatalf("%d encodings of %d", len(encoders), pubsub.NumEncodings)
	}
	longest := func(m *pubsub.Message) (n int) {
		for _, encode := range encoders {
			n = max(n, len(encode(nil, m)))
		}
		return n
	}
	contents := []string{"", "x", "\n", "\r", "\r\n", "\x00", "\x1f", `"`, `\`, "\u0085", "\u2028", "\u2029", "é", "€", "\xff", "\xc2", "\xe2\x80"}
	topics := []string{"t", ":", `"`, `\`, "\u2028", "ł", "€", "😀"}
	for range 5000 {
		m := pubsub.Message{
			Topic:      pubsub.Topic(strings.Repeat(topics[rnd.IntN(len(topics))], 1+rnd.IntN(200))),
			Properties: make([]byte, rnd.IntN(100)),
			Retain:     rnd.IntN(2) == 0,
			Published:  time.Now(),
			HasTTL:     rnd.IntN(2) == 0,
			TTL:        math.MaxUint32,
		}
		if m.Retain {
			m.Version = pubsub.Version{Generation: math.MaxUint64, Seq: math.MaxUint64}
		}
		one := contents[rnd.IntN(len(contents))]
		for range rnd.IntN(100) {
			m.Data = append(m.Data, one...)
			if rnd.IntN(10) == 0 {
				m.Data = append(m.Data, contents[rnd.IntN(len(contents))]...)
			}
		}
		if rnd.IntN(100) == 0 {
			m.Data = []byte(strings.Repeat(one, 40_000))
		}
		if got, bound := longest(&m), MaxEncodedSize(&m); got > bound {
			t.Fatalf("an encoding of %d bytes, the bound is %d: topic %.20q, content %.40q", got, bound, m.Topic, m.Data)
		}
	}
	m := pubsub.Message{Topic: "weather/berlin", Data: []byte(strings.Repeat("ordinary ", 30)), Published: time.Now()}
	if got, bound := longest(&m), MaxEncodedSize(&m); bound > 2*got {
		t.Errorf("an ordinary message of %d bytes has the bound %d", got, bound)
	}
}
