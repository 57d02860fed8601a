package hub

import (
	"slices"
	"sync"
	"sync/atomic"
)

// backlog bounds the memory of messages that members have not read: those of all logs,
// each once however many logs it is in, with all encodings; the initial messages of
// members; and the messages in recent.
type backlog struct {
	limit int64 // immutable
	bytes atomic.Int64
	trim  sync.Mutex // held by the one goroutine that cuts
	// retryAbove is the size below which trimming could not get. Trimming is not tried again
	// before there is more. It is 0 if trimming helps.
	retryAbove atomic.Int64
}

func (b *backlog) over() bool {
	n := b.bytes.Load()
	return n > b.limit && n > b.retryAbove.Load()
}

// enforceBacklogLimit cuts logs if all together hold too much. Whoever finds somebody
// else at it leaves it to them: they look again when they are done.
func (h *Hub) enforceBacklogLimit() {
	for b := &h.backlog; b.over() && b.trim.TryLock(); {
		before := b.bytes.Load()
		b.retryAbove.Store(0)
		if freed := h.trimBacklog(); freed == 0 && b.bytes.Load() == before {
			b.retryAbove.Store(before + b.limit/8)
		}
		b.trim.Unlock()
	}
}

// trimBacklog cuts the longest logs to one common length, so that the total is seven
// eighths of the limit; the room that this makes pays for the search. If that is not
// enough, it forgets the newest retained messages as well. It returns how many bytes it
// has freed.
func (h *Hub) trimBacklog() (freed int64) {
	b := &h.backlog
	freed = h.recent.clear(b)
	excess := b.bytes.Load() - b.limit/8*7
	if excess <= 0 {
		return freed
	}
	level := h.cutLevel(excess)
	h.eachLog(func(l *topicLog) { freed += l.cutTo(level, b) })
	if level == 0 && b.bytes.Load() > b.limit {
		h.eachLog(func(l *topicLog) { freed += l.forgetNewest(b) })
	}
	return freed
}

// cutLevel returns the length to which the longest topics' logs must be cut to free
// excess bytes, or 0 if all logs together do not have so many. A topic's logs hold the
// same messages, each as far back as its own members need, so the longest holds them all.
func (h *Hub) cutLevel(excess int64) int64 {
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
	var longest int64 // the sum of the topics to be cut
	for i := range topics {
		longest += topics[i]
		shorter := int64(0)
		if i+1 < len(topics) {
			shorter = topics[i+1]
		}
		n := int64(i + 1)
		if longest-n*shorter >= excess { // cutting these topics to the length of the next is enough
			return max(0, (longest-excess)/n)
		}
	}
	return 0
}

// eachLog calls f with each log, those of a topic one after the other; the log's mu
// is held.
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
