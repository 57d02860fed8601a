package hub

import (
	"testing"

	"pubsub"
)

// check verifies the invariants of the hub. No other goroutine may use the hub meanwhile.
func (h *Hub) check(t testing.TB) {
	t.Helper()
	var sum int64
	kept := make(map[*pubsub.PreparedMessage]bool) // by a log, a subscription or the cache
	for _, p := range h.recent.messages {
		kept[p] = true
	}
	for i := range h.index.stripes {
		for name, tp := range h.index.stripes[i].topics {
			joins := 0
			for l := tp.logs; l != nil; l = l.nextLog {
				joins += len(l.subscriptions)
				sum += int64(len(l.entries)) * entrySize
				if l.newest != nil {
					kept[l.newest] = true
				}
				bytes, atEnd, plainTotal := 0, 0, l.plainBefore(l.base)
				for _, e := range l.entries {
					bytes += cost(e.msg)
					kept[e.msg] = true
					if e.plainBefore != plainTotal {
						t.Fatalf("%s: entry has plainBefore %d, want %d", name, e.plainBefore, plainTotal)
					}
					if !e.msg.Retain {
						plainTotal++
					}
				}
				for i, s := range l.subscriptions {
					if int(s.index) != i || s.log != l {
						t.Fatalf("%s: subscription %d has index %d", name, i, s.index)
					}
					if s.pos == l.end() {
						atEnd++
					}
					if s.initial != nil {
						kept[s.initial.msg] = true
					}
				}
				if bytes != l.bytes || atEnd != int(l.atEnd) || plainTotal != l.plainTotal || int(l.walkLeft) > len(l.subscriptions) {
					t.Fatalf("%s: bytes %d, want %d; atEnd %d, want %d; plainTotal %d, want %d; walkLeft %d of %d",
						name, l.bytes, bytes, l.atEnd, atEnd, l.plainTotal, plainTotal, l.walkLeft, len(l.subscriptions))
				}
				if len(l.subscriptions) == 0 {
					t.Fatalf("%s: a log has no subscriptions", name)
				}
				if int(l.atEnd) == len(l.subscriptions) && (len(l.entries) > 0 || l.newest != nil) {
					t.Fatalf("%s: all have read everything but the log is not empty", name)
				}
			}
			if joins != tp.joins {
				t.Fatalf("%s: %d joins, want %d", name, tp.joins, joins)
			}
		}
	}
	for p := range kept {
		sum += p.Size()
	}
	if b := h.backlog.bytes.Load(); b != sum {
		t.Fatalf("backlog of %d bytes, want %d", b, sum)
	}
}

// checkEmpty verifies that the hub is empty after all subscribers have left.
func (h *Hub) checkEmpty(t testing.TB) {
	t.Helper()
	h.check(t)
	st := h.Stats()
	if st.Subscribers != 0 || st.Subscriptions != 0 || st.BacklogBytes != 0 {
		t.Errorf("stats after all have left: %+v", st)
	}
	for i := range h.index.stripes {
		if n := len(h.index.stripes[i].topics); n != 0 {
			t.Errorf("a stripe has %d topics after all have left", n)
		}
	}
	for _, s := range h.shards {
		for i, m := range s.wheel.slots {
			if m != nil {
				t.Errorf("slot %d of a wheel still has a subscriber", i)
			}
		}
	}
}

// closeAll closes the last subscribers and verifies that the hub is empty.
func closeAll[S interface{ Close() }](t testing.TB, h *Hub, subscribers ...S) {
	t.Helper()
	for _, s := range subscribers {
		s.Close()
	}
	h.checkEmpty(t)
}
