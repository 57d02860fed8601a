//go:build e2e

package e2e

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pubsub/internal/mqtt"
)

var kills = flag.Int("kills", 200, "how often TestKilledWhilePublishing kills the broker")

// TestKilledWhilePublishing: messages that were acknowledged at QoS 1 survive SIGKILL during
// publishing, many times, and the PUBACKs of each connection are in the order of its PUBLISH
// packets.
func TestKilledWhilePublishing(t *testing.T) {
	const sessions, topicsEach, window = 4, 4, 64
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	var topics []string
	for i := range sessions * topicsEach {
		topics = append(topics, fmt.Sprintf("t/%d", i))
	}
	b := startBroker(t)
	token := b.token(t, topics, topics)
	acknowledged := make([]int, len(topics)) // the last number of each topic
	sent := make([]int, len(topics))
	var total atomic.Int64
	for round := range *kills {
		var publishers sync.WaitGroup
		var begun sync.WaitGroup // done when each session has an acknowledgement
		begun.Add(sessions)
		for i := range sessions {
			s, err := openSession(b, token, fmt.Sprintf("killed-%d", i), 0)
			if err != nil {
				t.Fatal(err)
			}
			publishers.Go(func() {
				defer s.Conn.Close()
				first := sync.OnceFunc(begun.Done)
				defer first()
				at := func(n int) int { return i*topicsEach + n%topicsEach }
				id := func(n int) uint16 { return uint16(n%60_000 + 1) }
				numbers := make([]int, window) // the content of each message in the window
				for next, acked := 0, 0; ; {
					for ; next < acked+window; next++ {
						topic := at(next)
						sent[topic]++
						numbers[next%window] = sent[topic]
						data := strconv.Itoa(sent[topic]) + strings.Repeat(" ", next%500)
						p := &mqtt.Publish{QoS: 1, PacketID: id(next), Topic: topics[topic], Payload: []byte(data), Retain: true}
						if s.Send(p) != nil {
							return
						}
					}
					p, err := s.Read()
					if err != nil {
						return
					}
					if ack, ok := p.(*mqtt.Ack); !ok || ack.Kind != mqtt.TypePuback || ack.PacketID != id(acked) || ack.Reason != mqtt.Success {
						t.Errorf("%s %+v, want PUBACK %d", p.Type(), p, id(acked))
						return
					}
					total.Add(1)
					acknowledged[at(acked)] = numbers[acked%window]
					acked++
					first()
				}
			})
		}
		begun.Wait()
		time.Sleep(time.Duration(rng.IntN(60)) * time.Millisecond) // kill at a random moment
		b.crash()
		publishers.Wait()
		b.start(t)
		checkRetained(t, b, token, topics, acknowledged, sent)
		if t.Failed() {
			t.Fatalf("seed %d, round %d", seed, round)
		}
	}
	t.Logf("%d kills; %d messages acknowledged", *kills, total.Load())
}

// checkRetained checks that the retained message of each topic is the one that was acknowledged
// last, or a later one that was sent.
func checkRetained(t *testing.T, b *broker, token string, topics []string, acknowledged, sent []int) {
	t.Helper()
	s := mustOpenSession(t, b, token, "reader", 0)
	sub := &mqtt.Subscribe{PacketID: 1}
	missing := map[string]bool{}
	for i, topic := range topics {
		sub.Filters = append(sub.Filters, mqtt.Filter{Topic: topic})
		if acknowledged[i] > 0 {
			missing[topic] = true
		}
	}
	if err := s.Send(sub); err != nil {
		t.Fatal(err)
	}
	kept := map[string]int{}
	for len(missing) > 0 {
		p, err := s.Read()
		if err != nil {
			t.Fatalf("topics without a retained message: %v (%v)", missing, err)
		}
		if p, ok := p.(*mqtt.Publish); ok {
			if kept[p.Topic], err = strconv.Atoi(strings.TrimSpace(string(p.Payload))); err != nil {
				t.Fatal(err)
			}
			delete(missing, p.Topic)
		}
	}
	for i, topic := range topics {
		if acknowledged[i] > 0 && kept[topic] < acknowledged[i] || kept[topic] > sent[i] {
			t.Errorf("%s retains number %d; %d was acknowledged, and %d sent", topic, kept[topic], acknowledged[i], sent[i])
		}
	}
	s.Conn.Close()
}
