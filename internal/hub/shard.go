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
	firstLog, lastLog *topicLog
	// guarded by mu: the members that are to be served, likewise
	firstScheduled, lastScheduled *Subscriber
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

// enqueueLog gives l a turn.
func (s *shard) enqueueLog(l *topicLog) {
	s.mu.Lock()
	if l.queued {
		s.mu.Unlock()
		return
	}
	l.queued = true
	if s.lastLog == nil {
		s.firstLog = l
	} else {
		s.lastLog.nextQueued = l
	}
	s.lastLog = l
	s.mu.Unlock()
	s.signal()
}

// schedule has m served.
func (s *shard) schedule(m *Subscriber) {
	s.mu.Lock()
	if m.scheduled {
		s.mu.Unlock()
		return
	}
	m.scheduled = true
	if s.lastScheduled == nil {
		s.firstScheduled = m
	} else {
		s.lastScheduled.nextScheduled = m
	}
	s.lastScheduled = m
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
		m := s.firstScheduled
		if m == nil {
			s.mu.Unlock()
			return any
		}
		s.firstScheduled = m.nextScheduled
		if s.firstScheduled == nil {
			s.lastScheduled = nil
		}
		m.nextScheduled, m.scheduled = nil, false
		s.mu.Unlock()
		m.holder.(ShardHolder).Serve(s.outbox)
		any = true
	}
	return any
}

func (s *shard) dequeueLog() *topicLog {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.firstLog
	if l == nil {
		return nil
	}
	s.firstLog = l.nextQueued
	if s.firstLog == nil {
		s.lastLog = nil
	}
	l.nextQueued, l.queued = nil, false
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
	busy := s.wheel.fire(sliceSize)
	busy = s.serve(sliceSize) || busy
	l := s.dequeueLog()
	if l == nil {
		return busy
	}
	batch, more := l.walk(s.batch[:0])
	if more {
		s.enqueueLog(l)
	}
	for _, sub := range batch {
		sub.subscriber.queueUnread(sub)
	}
	clear(batch)
	return true
}
