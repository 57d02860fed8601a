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

	"pubsub/internal/testkit"
	"pubsub/internal/testkit/process"
)

const (
	publishers = 64
	// messageSize makes the store begin a new log every few hundred messages, for which
	// it needs a descriptor.
	messageSize = 32_000
	// mostAcks bounds the acknowledgements of a round.
	mostAcks = 600
)

// TestAttack floods a broker that may open 512 descriptors with connections of
// attackers, while 64 publishers, half of them over MQTT, publish retained messages of
// 32 KB. It kills the broker at a random moment, and starts it again.
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
	dir := t.TempDir()
	certFile, keyFile := testkit.SelfSigned().WriteFiles(t)
	cert := &certificate{certFile, keyFile}
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
	var acked [2]int // over HTTP and over MQTT
	for i, r := range records {
		acked[i%2] += r.acked
	}
	t.Logf("%d rounds, about %d messages acknowledged over HTTP and %d over MQTT, %.0f idle connections closed", *rounds, acked[0], acked[1], closed)
	if acked[0] == 0 || acked[1] == 0 {
		t.Error("no message was acknowledged over HTTP, or none over MQTT")
	}
}

// checkAll checks that a broker, after its start, has all acknowledged messages.
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
			t.Fatalf("flooding: %v\n%s", err, b.Tail())
		}
		for _, r := range some {
			if err := r.check(found[r.topic]); err != nil {
				t.Error(err)
			}
		}
	}
}

// attack floods b and publishes to it until a random number of messages is acknowledged
// and the bound on connections is reached. Then it kills b. It returns how many idle
// connections b has closed.
func attack(t *testing.T, b *broker, records []*record, rng *rand.Rand) (closed float64) {
	ctx, cancel := context.WithTimeout(t.Context(), testkit.Patience)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	for i := range attackers {
		for range 2 {
			r := rand.New(rand.NewPCG(rng.Uint64(), 1))
			wg.Go(func() { attackers[i].flood(ctx, b, r) })
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
					continue // the broker may have closed its connection for another; the next call connects again
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
	case <-b.Exited():
	case <-ctx.Done():
		t.Errorf("%d of %d messages were acknowledged in %v\n%s", acks.Load(), target, testkit.Patience, b.Tail())
	}
	for closed == 0 && ctx.Err() == nil && !b.Ended() { // until the flood has reached the bound
		closed = b.checkBounds(t)
	}
	b.kill()
	return closed
}
