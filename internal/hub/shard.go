package hub

import (
	"context"
	"runtime"
	"sync"
	"time"
)

// sliceSize is how many members of a topic are woken before the shard turns to
// another topic.
const sliceSize = 128

// shard wakes the members of a part of the connections. Its goroutine takes the
// topics that have news in turn, a slice of members each, so that a topic with
// ten members never waits for one with a hundred thousand.
type shard struct {
	// immutable
	wake  chan struct{} // has one when there are jobs
	wheel *wheel

	mu sync.Mutex
	// guarded by mu: the topics with news, in the order they get their turn
	first, last *topicLog
}

func newShard() *shard {
	s := &shard{wake: make(chan struct{}, 1)}
	s.wheel = newWheel(time.Now())
	return s
}

// enqueue gives l a turn.
func (s *shard) enqueue(l *topicLog) {
	s.mu.Lock()
	if l.queued {
		s.mu.Unlock()
		return
	}
	l.queued = true
	if s.last == nil {
		s.first = l
	} else {
		s.last.nextIn = l
	}
	s.last = l
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *shard) dequeue() *topicLog {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.first
	if l == nil {
		return nil
	}
	s.first = l.nextIn
	if s.first == nil {
		s.last = nil
	}
	l.nextIn, l.queued = nil, false
	return l
}

func (s *shard) run(ctx context.Context) {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	batch := make([]*Subscription, 0, sliceSize)
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			s.wheel.advance(time.Now())
		case <-s.wake:
			for l := s.dequeue(); l != nil; l = s.dequeue() {
				var more bool
				batch, more = l.walk(batch[:0])
				if more {
					s.enqueue(l)
				}
				for i, sub := range batch {
					sub.member.notify(sub)
					batch[i] = nil
				}
				select {
				case <-ctx.Done():
					return
				case <-ticker.C:
					s.wheel.advance(time.Now())
				default:
				}
				// Those just woken run before the next slice adds to them.
				runtime.Gosched()
			}
		}
	}
}
