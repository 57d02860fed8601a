//go:build linux

package attack_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pubsub/bench/process"
	"pubsub/internal/testkit"
)

const (
	publishers = 64
	// messageSize is what makes the store begin a new log every few hundred messages,
	// for which it needs a descriptor.
	messageSize = 32_000
	// mostAcks bounds the acknowledgements of a round.
	mostAcks = 600
)

// TestAttack floods a broker that may open 512 descriptors with strangers, while 64
// publishers, half of them by MQTT, publish retained messages of 32 KB, and kills it at a
// random moment.
func TestAttack(t *testing.T) {
	var flags []string
	if testkit.Race {
		flags = append(flags, "-race")
	}
	binary, err := process.Build(t.Context(), t.TempDir(), flags...)
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(*seed, 0))
	dir, cert := t.TempDir(), newCertificate(t)
	var records []*record
	for i := range publishers {
		records = append(records, &record{topic: fmt.Sprintf("attack/%02d", i)})
	}
	var closed float64
	for round := range *rounds {
		b := start(t, binary, dir, []*certificate{nil, nil, nil, cert}[round%4])
		checkAll(t, b, records)
		closed += attack(t, b, records, rng)
		if t.Failed() {
			t.Fatalf("seed %d, round %d", *seed, round)
		}
	}
	b := start(t, binary, dir, nil)
	checkAll(t, b, records)
	b.kill()
	var acked [2]int // by HTTP and by MQTT
	for i, r := range records {
		acked[i%2] += r.acked
	}
	t.Logf("%d rounds, some %d messages acknowledged by HTTP and %d by MQTT, %.0f idle connections closed", *rounds, acked[0], acked[1], closed)
	if acked[0] == 0 || acked[1] == 0 {
		t.Error("nothing was acknowledged by one of them")
	}
}

// checkAll checks that a broker that has just started has all that was acknowledged.
func checkAll(t *testing.T, b *broker, records []*record) {
	t.Helper()
	for some := range slices.Chunk(records, 10) {
		var topics []string
		for _, r := range some {
			if r.acked > 0 {
				topics = append(topics, r.topic)
			}
		}
		if len(topics) == 0 {
			continue
		}
		found, err := b.retained(topics)
		if err != nil {
			t.Fatalf("%v\n%s", err, b.tail())
		}
		for _, r := range some {
			if err := r.check(found[r.topic]); err != nil {
				t.Error(err)
			}
		}
	}
}

// attack publishes to b, flooded, until a random number of messages is acknowledged
// and the bound on connections is reached, and kills it. It returns how many connections
// b has closed for others.
func attack(t *testing.T, b *broker, records []*record, rng *rand.Rand) (closed float64) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	for i := range strangers {
		for range 2 {
			r := rand.New(rand.NewPCG(rng.Uint64(), 1))
			wg.Go(func() { strangers[i].flood(ctx, b, r) })
		}
	}
	enough := make(chan struct{})
	target := int64(1 + rng.IntN(mostAcks))
	var acks atomic.Int64
	for i, r := range records {
		wg.Go(func() {
			var p publisher = newHTTPPublisher(b)
			if i%2 == 1 {
				p = &mqttPublisher{b: b}
			}
			defer p.Close()
			for ctx.Err() == nil {
				number, data := r.message(messageSize)
				if p.publish(ctx, r.topic, data) != nil {
					continue // its connection may have been closed for another; the next tries again
				}
				r.acknowledged(number)
				if acks.Add(1) == target {
					close(enough)
				}
			}
		})
	}
	select {
	case <-enough:
	case <-b.exited:
	case <-ctx.Done():
		t.Errorf("%d of %d messages were acknowledged in %v\n%s", acks.Load(), target, patience, b.tail())
	}
	for closed == 0 && ctx.Err() == nil && !b.ended() { // until the flood has reached the bound
		closed = b.checkBounds(t)
	}
	b.kill()
	return closed
}

// checkBounds checks that the broker is within its bounds, and that its metrics agree.
func (b *broker) checkBounds(t *testing.T) (closed float64) {
	t.Helper()
	if b.ended() {
		return 0 // kill says so
	}
	begun := time.Now()
	m, err := b.metrics()
	if err != nil {
		t.Errorf("the ops listener: %v after %v", err, time.Since(begun))
		return 0
	}
	files, err := b.openFiles()
	if err != nil || files >= descriptors {
		t.Errorf("%d descriptors, %v", files, err)
	}
	if open, most := m["pubsub_sockets"], m["pubsub_sockets_max"]; most != descriptors/2 || open > most {
		t.Errorf("%v connections of at most %v", open, most)
	}
	if n := m[`pubsub_errors_total{op="accept"}`]; n != 0 {
		t.Errorf("%v errors of accept", n)
	}
	return m[`pubsub_sockets_closed_total{limit="max-sockets"}`]
}
