package nats

import (
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"pubsub"
	"pubsub/internal/testkit"
)

// BenchmarkPut stores messages of 128 bytes. Each of 64 publishers has its own topic.
func BenchmarkPut(b *testing.B) {
	for name, urls := range map[string]func() []string{
		"one-server":    func() []string { return []string{newServer(b, withoutSync).url()} },
		"three-servers": func() []string { return newCluster(b, 3, withoutSync).urls() },
	} {
		b.Run(name, func(b *testing.B) {
			n := newNode(b, Options{URLs: urls()})
			data := string(make([]byte, 128))
			var next atomic.Int64
			b.SetParallelism(64)
			b.ReportAllocs()
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				k := next.Add(1)
				for pb.Next() {
					if _, err := n.Put(b.Context(), retainedMessage(pubsub.Topic(fmt.Sprint("bench/", k)), data))(); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

// benchmarkPair starts a server and two nodes, of which the second is subscribed to topic t.
func benchmarkPair(b *testing.B) (from, to *node) {
	s := newServer(b, withoutSync)
	from, to = newNode(b, Options{URLs: []string{s.url()}}), newNode(b, Options{URLs: []string{s.url()}})
	to.subscribe("t")
	return from, to
}

// BenchmarkSend sends messages of 128 bytes from one node to another.
func BenchmarkSend(b *testing.B) {
	from, to := benchmarkPair(b)
	m := pubsub.Message{Topic: "t", Data: make([]byte, 128), Published: time.Now()}
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		if err := from.Send(b.Context(), m); err != nil {
			b.Fatal(err)
		}
		for to.count("t") < i-1000 { // not faster than the second node delivers
			time.Sleep(50 * time.Microsecond)
		}
	}
	testkit.Eventually(b, "all messages", func() bool { return to.count("t") == b.N })
}

// BenchmarkLatency measures the time from a publish at one node to the delivery at another, one
// message at a time.
func BenchmarkLatency(b *testing.B) {
	for name, publish := range map[string]func(n *node, m pubsub.Message) error{
		"plain": func(n *node, m pubsub.Message) error { return n.Send(n.t.(*testing.B).Context(), m) },
		"retained": func(n *node, m pubsub.Message) error {
			m.Retain = true
			_, err := n.Put(n.t.(*testing.B).Context(), m)()
			return err
		},
	} {
		b.Run(name, func(b *testing.B) {
			from, to := benchmarkPair(b)
			arrived := make(chan struct{}, 1)
			to.arrived.Store(&arrived)
			var took []time.Duration
			for b.Loop() {
				began := time.Now()
				if err := publish(from, pubsub.Message{Topic: "t", Data: make([]byte, 128), Published: began}); err != nil {
					b.Fatal(err)
				}
				<-arrived
				took = append(took, time.Since(began))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
		})
	}
}
