package hub

import (
	"slices"
	"sync"
	"sync/atomic"
)

// backlog bounds what all logs of a node hold together.
type backlog struct {
	limit int64 // immutable
	bytes atomic.Int64
	trim  sync.Mutex // held by the one goroutine that cuts
}

func (b *backlog) over() bool { return b.bytes.Load() > b.limit }

// boundBacklogs cuts logs if all together hold too much. Whoever finds somebody
// else at it leaves it to them: they look again when they are done.
func (h *Hub) boundBacklogs() {
	for h.backlog.over() && h.backlog.trim.TryLock() {
		h.trimBacklogs()
		h.backlog.trim.Unlock()
	}
}

// trimBacklogs cuts the longest logs to one common length, so that all together
// take seven eighths of the limit: the room that this makes pays for the search.
func (h *Hub) trimBacklogs() {
	b := &h.backlog
	type held struct {
		log   *topicLog
		bytes int
	}
	var logs []held
	var sum int64
	for i := range h.index.stripes {
		st := &h.index.stripes[i]
		st.mu.RLock()
		for _, t := range st.topics {
			for l := t.logs; l != nil; l = l.nextLog {
				l.mu.Lock()
				n := l.bytes
				l.mu.Unlock()
				if n > 0 {
					logs = append(logs, held{l, n})
					sum += int64(n)
				}
			}
		}
		st.mu.RUnlock()
	}
	slices.SortFunc(logs, func(a, b held) int { return b.bytes - a.bytes })
	excess := sum - b.limit/8*7
	var longest int64 // the sum of the logs that are to be cut
	for i := range logs {
		longest += int64(logs[i].bytes)
		shorter := int64(0)
		if i+1 < len(logs) {
			shorter = int64(logs[i+1].bytes)
		}
		n := int64(i + 1)
		if longest-n*shorter < excess {
			continue // cutting these to the length of the next is not enough
		}
		level := int(max(0, (longest-excess)/n))
		for _, l := range logs[:i+1] {
			l.log.mu.Lock()
			l.log.cut(level, 0, b)
			l.log.mu.Unlock()
		}
		return
	}
}
