package hub

import (
	"testing"

	"pubsub"
)

// check verifies what must hold of every log whenever nobody is at work.
func (h *Hub) check(t testing.TB) {
	t.Helper()
	var sum int64
	kept := make(map[*pubsub.PreparedMessage]bool) // in a log, or for a member
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
				bytes, atEnd, ordinal := 0, 0, l.plainBefore(l.base)
				for _, e := range l.entries {
					bytes += cost(e.msg)
					kept[e.msg] = true
					if e.plainBefore != ordinal {
						t.Fatalf("%s: entry has ordinal %d, want %d", name, e.plainBefore, ordinal)
					}
					if !e.msg.Retain {
						ordinal++
					}
				}
				for i, s := range l.subscriptions {
					if int(s.index) != i || s.log != l {
						t.Fatalf("%s: member %d believes to be %d", name, i, s.index)
					}
					if s.pos == l.end() {
						atEnd++
					}
					if s.initial != nil {
						kept[s.initial.msg] = true
					}
				}
				if bytes != l.bytes || atEnd != int(l.atEnd) || ordinal != l.plainTotal || int(l.walkLeft) > len(l.subscriptions) {
					t.Fatalf("%s: bytes %d, counted %d; at end %d, counted %d; ordinal %d, counted %d; to wake %d of %d",
						name, l.bytes, bytes, l.atEnd, atEnd, l.plainTotal, ordinal, l.walkLeft, len(l.subscriptions))
				}
				if len(l.subscriptions) == 0 {
					t.Fatalf("%s: a log without members is kept", name)
				}
				if int(l.atEnd) == len(l.subscriptions) && (len(l.entries) > 0 || l.newest != nil) {
					t.Fatalf("%s: all have read everything and the log is not empty", name)
				}
			}
			if joins != tp.joins {
				t.Fatalf("%s: %d joins, counted %d", name, tp.joins, joins)
			}
		}
	}
	for p := range kept {
		sum += p.Size()
	}
	if b := h.backlog.bytes.Load(); b != sum {
		t.Fatalf("backlog of %d bytes, counted %d", b, sum)
	}
}

// checkEmpty verifies that nothing is left of members that have all left.
func (h *Hub) checkEmpty(t testing.TB) {
	t.Helper()
	h.check(t)
	st := h.Stats()
	if st.Subscribers != 0 || st.Subscriptions != 0 || st.BacklogBytes != 0 {
		t.Errorf("after all have left: %+v", st)
	}
	for i := range h.index.stripes {
		if n := len(h.index.stripes[i].topics); n != 0 {
			t.Errorf("after all have left a stripe has %d topics", n)
		}
	}
	for _, s := range h.shards {
		for i, m := range s.wheel.slots {
			if m != nil {
				t.Errorf("slot %d of a wheel has a member that has left", i)
			}
		}
	}
}
