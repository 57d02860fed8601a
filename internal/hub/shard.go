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
	hub    *Hub
	outbox Outbox        // nil if there is none
	wake   chan struct{} // has one when there are jobs
	wheel  *wheel
	ticker *time.Ticker // in step with wheel

	batch []*Subscription // owned by the shard's goroutine: scratch of slice

	mu sync.Mutex
	// guarded by mu: the topics with news, in the order they get their turn
	first, last *topicLog
	// guarded by mu: the members that are to be served, likewise
	firstRun, lastRun *Subscriber
}

func newShard(h *Hub, o Outbox) *shard {
	return &shard{
		hub:    h,
		outbox: o,
		wake:   make(chan struct{}, 1),
		wheel:  newWheel(time.Now()), // before the ticker: no tick is too early for it
		ticker: time.NewTicker(tick),
		batch:  make([]*Subscription, 0, sliceSize),
	}
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
	s.signal()
}

// enqueueMember has m served.
func (s *shard) enqueueMember(m *Subscriber) {
	s.mu.Lock()
	if m.runs {
		s.mu.Unlock()
		return
	}
	m.runs = true
	if s.lastRun == nil {
		s.firstRun = m
	} else {
		s.lastRun.nextRun = m
	}
	s.lastRun = m
	s.mu.Unlock()
	s.signal()
}

func (s *shard) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// serve serves up to n of the members that are to be served; false if there were
// none.
func (s *shard) serve(n int) (any bool) {
	for range n {
		s.mu.Lock()
		m := s.firstRun
		if m == nil {
			s.mu.Unlock()
			return any
		}
		s.firstRun = m.nextRun
		if s.firstRun == nil {
			s.lastRun = nil
		}
		m.nextRun, m.runs = nil, false
		s.mu.Unlock()
		m.holder.(ShardHolder).Serve(s.outbox)
		any = true
	}
	return any
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
	defer s.ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.ticker.C:
			s.wheel.advance(time.Now())
		case <-s.wake:
		}
		for s.slice() {
			if s.outbox != nil {
				s.outbox.Flush()
			}
			select {
			case <-ctx.Done():
				return
			case <-s.ticker.C:
				s.wheel.advance(time.Now())
			default:
			}
			// Those just woken run before the next slice adds to them.
			runtime.Gosched()
		}
	}
}

// slice calls the holders of some of the members whose deadline has come, wakes some of the topic
// whose turn it is, and serves some of those that are to be served; false if there
// were none of any.
func (s *shard) slice() bool {
	busy := s.wheel.ring(sliceSize)
	busy = s.serve(sliceSize) || busy
	l := s.dequeue()
	if l == nil {
		return busy
	}
	batch, more := l.walk(s.batch[:0])
	if more {
		s.enqueue(l)
	}
	for _, sub := range batch {
		sub.member.queueUnread(sub)
	}
	clear(batch)
	return true
}
