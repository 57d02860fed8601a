package hub

import (
	"slices"
	"sync"
	"sync/atomic"
)

// backlog bounds the memory of unread messages, encodings included. It counts the messages
// in all logs, each message once; the initial messages of subscriptions; and the messages
// in recent.
type backlog struct {
	limit    int64 // immutable
	bytes    atomic.Int64
	trimming sync.Mutex // held by the goroutine that trims
	// retryAbove is set if trimming has freed nothing: it is not tried again until bytes
	// is greater. Otherwise it is 0.
	retryAbove atomic.Int64
}

func (b *backlog) over() bool {
	n := b.bytes.Load()
	return n > b.limit && n > b.retryAbove.Load()
}

// enforceBacklogLimit trims the logs if they take too much memory together. If another
// goroutine is trimming, it leaves that to it: the other one checks the limit again when
// it is done.
func (h *Hub) enforceBacklogLimit() {
	for b := &h.backlog; b.over() && b.trimming.TryLock(); {
		before := b.bytes.Load()
		b.retryAbove.Store(0)
		if freed := h.trimBacklog(); freed == 0 && b.bytes.Load() == before {
			b.retryAbove.Store(before + b.limit/8)
		}
		b.trimming.Unlock()
	}
}

// trimBacklog cuts the longest logs to a common size, so that the total is seven eighths
// of the limit. The remaining eighth makes trimming rare. If cutting is not enough, it
// forgets the newest retained messages as well. It returns the number of bytes freed.
func (h *Hub) trimBacklog() (freed int64) {
	b := &h.backlog
	freed = h.recent.clear(b)
	excess := b.bytes.Load() - b.limit/8*7
	if excess <= 0 {
		return freed
	}
	size := h.cutSize(excess)
	h.eachLog(func(l *topicLog) { freed += l.cutToSize(size, b) })
	if size == 0 && b.bytes.Load() > b.limit {
		h.eachLog(func(l *topicLog) { freed += l.forgetNewest(b) })
	}
	return freed
}

// cutSize returns the size to which the largest logs must be cut to free excess bytes, or
// 0 if all logs together have fewer. The logs of a topic share their messages, and each
// reaches back as far as its own subscribers need. So the largest one holds them all, and
// only it counts.
func (h *Hub) cutSize(excess int64) int64 {
	var topics []int64
	var last *topic
	h.eachLog(func(l *topicLog) {
		n := l.size()
		switch {
		case n == 0:
		case l.topic == last:
			topics[len(topics)-1] = max(topics[len(topics)-1], n)
		default:
			topics, last = append(topics, n), l.topic
		}
	})
	slices.SortFunc(topics, func(a, b int64) int { return int(b - a) })
	var total int64 // the size of the topics to cut
	for i := range topics {
		total += topics[i]
		next := int64(0)
		if i+1 < len(topics) {
			next = topics[i+1]
		}
		n := int64(i + 1)
		if total-n*next >= excess { // cutting these topics to the size of the next is enough
			return max(0, (total-excess)/n)
		}
	}
	return 0
}

// eachLog calls f with each log, whose mu is held. The logs of a topic are consecutive.
func (h *Hub) eachLog(f func(*topicLog)) {
	for i := range h.index.stripes {
		st := &h.index.stripes[i]
		st.mu.RLock()
		for _, t := range st.topics {
			for l := t.logs; l != nil; l = l.nextLog {
				l.mu.Lock()
				f(l)
				l.mu.Unlock()
			}
		}
		st.mu.RUnlock()
	}
}
