package local

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pubsub"
)

// BenchmarkPut puts messages of 128 bytes on a real disk. Each writer waits for one Put
// before the next. TMPDIR selects the disk.
func BenchmarkPut(b *testing.B) {
	for _, writers := range []int{1, 64} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			s := open(b, Options{Dir: b.TempDir()})
			defer s.Close()
			topics := make([]pubsub.Topic, 10_000)
			for i := range topics {
				topics[i] = pubsub.Topic(fmt.Sprintf("bench/topic/%d", i))
			}
			m := pubsub.Message{Data: []byte(strings.Repeat("x", 128)), Published: time.Now(), Sender: "s"}
			var next atomic.Int64
			b.ReportAllocs()
			b.ResetTimer()
			var wg sync.WaitGroup
			for range writers {
				wg.Go(func() {
					m := m
					for {
						i := next.Add(1)
						if i > int64(b.N) {
							return
						}
						m.Topic = topics[i*7919%int64(len(topics))]
						if _, err := s.Put(b.Context(), m)(); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
		})
	}
}

// BenchmarkLast reads a retained message by topic.
func BenchmarkLast(b *testing.B) {
	s := open(b, Options{Dir: b.TempDir()})
	defer s.Close()
	m := pubsub.Message{Topic: "bench/topic", Data: []byte(strings.Repeat("x", 128)), Published: time.Now(), Sender: "s"}
	if _, err := s.Put(b.Context(), m)(); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, ok, err := s.Last(b.Context(), m.Topic, pubsub.Version{}); !ok || err != nil {
			b.Fatal(ok, err)
		}
	}
}
