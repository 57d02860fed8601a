package nats

import (
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"pubsub"
)

// BenchmarkPut stores messages of 128 bytes, by 64 publishers at a time, each to
// topics of its own.
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

// BenchmarkSend passes messages of 128 bytes from one node to another.
func BenchmarkSend(b *testing.B) {
	s := newServer(b, withoutSync)
	from, to := newNode(b, Options{URLs: []string{s.url()}}), newNode(b, Options{URLs: []string{s.url()}})
	to.want("t")
	m := pubsub.Message{Topic: "t", Data: make([]byte, 128), Published: time.Now()}
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		if err := from.Send(b.Context(), m); err != nil {
			b.Fatal(err)
		}
		for to.count("t") < i-1000 { // as fast as it takes them
			time.Sleep(50 * time.Microsecond)
		}
	}
	eventually(b, "all messages", func() bool { return to.count("t") == b.N })
}

// BenchmarkLatency is the time from a publish on one node to its delivery on
// another, one message at a time.
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
			s := newServer(b, withoutSync)
			from, to := newNode(b, Options{URLs: []string{s.url()}}), newNode(b, Options{URLs: []string{s.url()}})
			to.want("t")
			arrived := make(chan struct{}, 1)
			to.heard.Store(&arrived)
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
