package hub

import (
	"context"
	"runtime"
	"sync"
	"time"
)

// sliceSize is how many subscribers of a topic a shard wakes before it turns to another
// topic.
const sliceSize = 128

// shard serves a part of the subscribers. Its goroutine takes topics with new messages in
// turn, and wakes a slice of each topic's subscribers, so that a topic with ten
// subscribers never waits for one with a hundred thousand.
type shard struct {
	// immutable
	hub    *Hub
	outbox Outbox        // nil if there is none
	wake   chan struct{} // has an element if the queues are not empty
	wheel  *wheel
	ticker *time.Ticker // for the ticks of wheel

	batch []*Subscription // owned by the shard's goroutine: scratch space of slice

	mu sync.Mutex
	// guarded by mu
	firstLog, lastLog             *topicLog   // queue of logs with new messages
	firstScheduled, lastScheduled *Subscriber // queue of subscribers to serve
}

func newShard(h *Hub, o Outbox) *shard {
	return &shard{
		hub:    h,
		outbox: o,
		wake:   make(chan struct{}, 1),
		wheel:  newWheel(time.Now()), // before the ticker, so that no tick comes too early
		ticker: time.NewTicker(tick),
		batch:  make([]*Subscription, 0, sliceSize),
	}
}

// enqueueLog queues l, unless it is in the queue already.
func (sh *shard) enqueueLog(l *topicLog) {
	sh.mu.Lock()
	if l.queued {
		sh.mu.Unlock()
		return
	}
	l.queued = true
	if sh.lastLog == nil {
		sh.firstLog = l
	} else {
		sh.lastLog.nextQueued = l
	}
	sh.lastLog = l
	sh.mu.Unlock()
	sh.signal()
}

// dequeueLog returns the next queued log, or nil.
func (sh *shard) dequeueLog() *topicLog {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	l := sh.firstLog
	if l == nil {
		return nil
	}
	sh.firstLog = l.nextQueued
	if sh.firstLog == nil {
		sh.lastLog = nil
	}
	l.nextQueued, l.queued = nil, false
	return l
}

// schedule queues s to be served, unless it is in the queue already.
func (sh *shard) schedule(s *Subscriber) {
	sh.mu.Lock()
	if s.scheduled {
		sh.mu.Unlock()
		return
	}
	s.scheduled = true
	if sh.lastScheduled == nil {
		sh.firstScheduled = s
	} else {
		sh.lastScheduled.nextScheduled = s
	}
	sh.lastScheduled = s
	sh.mu.Unlock()
	sh.signal()
}

// serve serves up to n scheduled subscribers and reports whether there were any.
func (sh *shard) serve(n int) (busy bool) {
	for range n {
		sh.mu.Lock()
		s := sh.firstScheduled
		if s == nil {
			sh.mu.Unlock()
			return busy
		}
		sh.firstScheduled = s.nextScheduled
		if sh.firstScheduled == nil {
			sh.lastScheduled = nil
		}
		s.nextScheduled, s.scheduled = nil, false
		sh.mu.Unlock()
		s.holder.(ShardHolder).Serve(sh.outbox)
		busy = true
	}
	return busy
}

func (sh *shard) signal() {
	select {
	case sh.wake <- struct{}{}:
	default:
	}
}

func (sh *shard) run(ctx context.Context) {
	defer sh.ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-sh.ticker.C:
			sh.wheel.advance(time.Now())
		case <-sh.wake:
		}
		for sh.slice() {
			if sh.outbox != nil {
				sh.outbox.Flush()
			}
			select {
			case <-ctx.Done():
				return
			case <-sh.ticker.C:
				sh.wheel.advance(time.Now())
			default:
			}
			// Let the goroutines just woken run before the next slice wakes more.
			runtime.Gosched()
		}
	}
}

// slice does a bounded part of the shard's work: it reports some deadlines, serves some
// scheduled subscribers and wakes some subscribers of the next queued log. It reports
// whether there was anything to do.
func (sh *shard) slice() (busy bool) {
	busy = sh.wheel.fire(sliceSize)
	busy = sh.serve(sliceSize) || busy
	l := sh.dequeueLog()
	if l == nil {
		return busy
	}
	batch, more := l.walk(sh.batch[:0])
	if more {
		sh.enqueueLog(l)
	}
	for _, sub := range batch {
		sub.subscriber.queueUnread(sub)
	}
	clear(batch)
	return true
}
