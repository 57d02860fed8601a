package hub

import (
	"slices"
	"sync"
	"sync/atomic"
)

// backlog bounds what the node keeps in memory for members that have not read it:
// the messages of all logs, each once however many logs it is in, with all their
// encodings; what members are to be given of the past; and what is kept because it
// was read from the store lately.
type backlog struct {
	limit int64 // immutable
	bytes atomic.Int64
	trim  sync.Mutex // held by the one goroutine that cuts
	// useless is what trimming could not get below: it is not tried again before
	// there is more. 0 if trimming helps.
	useless atomic.Int64
}

func (b *backlog) over() bool {
	n := b.bytes.Load()
	return n > b.limit && n > b.useless.Load()
}

// boundBacklogs cuts logs if all together hold too much. Whoever finds somebody
// else at it leaves it to them: they look again when they are done.
func (h *Hub) boundBacklogs() {
	for b := &h.backlog; b.over() && b.trim.TryLock(); {
		before := b.bytes.Load()
		b.useless.Store(0)
		if freed := h.trimBacklogs(); freed == 0 && b.bytes.Load() == before {
			b.useless.Store(before + b.limit/8)
		}
		b.trim.Unlock()
	}
}

// trimBacklogs cuts the longest logs to one common length, so that all that is kept
// takes seven eighths of the limit: the room that this makes pays for the search.
// If that is not enough, the newest retained messages are forgotten as well. It
// returns how many bytes it has freed.
func (h *Hub) trimBacklogs() (freed int64) {
	b := &h.backlog
	freed = h.recent.clear(b)
	excess := b.bytes.Load() - b.limit/8*7
	if excess <= 0 {
		return freed
	}
	level := h.cutLevel(excess)
	h.eachLog(func(l *topicLog) { freed += l.cutTo(level, b) })
	if level == 0 && b.bytes.Load() > b.limit {
		h.eachLog(func(l *topicLog) { freed += l.forget(b) })
	}
	return freed
}

// cutLevel returns the length to which the longest topics' logs are to be cut so
// that excess bytes are freed; 0 if all of them do not have so many. A topic's logs
// hold the same messages, each as far back as its own members need, so that the
// longest holds them all.
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
	var longest int64 // the sum of the topics that are to be cut
	for i := range topics {
		longest += topics[i]
		shorter := int64(0)
		if i+1 < len(topics) {
			shorter = topics[i+1]
		}
		n := int64(i + 1)
		if longest-n*shorter >= excess { // cutting these to the length of the next is enough
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
