package hub

import (
	"math"
	"sync"
	"time"
)

const (
	// tick is the grain of deadlines.
	tick = 100 * time.Millisecond
	// wheelSlots is how many ticks a turn of the wheel takes: 51.2 s. A deadline
	// further away goes round more than once.
	wheelSlots = 512
)

// wheel is a timer wheel: the deadlines of a shard's members cost two pointers
// and half a word each, and no timer of the runtime.
type wheel struct {
	start time.Time // immutable: tick 0

	mu sync.Mutex
	// guarded by mu
	now   int64 // the last tick that was dealt with
	slots [wheelSlots]*Subscriber

	due []*Subscriber // owned by the shard's goroutine: members whose deadline has come
}

// timer is a member's place in a wheel, but for Member.due.
type timer struct{ prev, next *Subscriber }

func newWheel(now time.Time) *wheel { return &wheel{start: now} }

// tickOf is the first tick not before t, or the last one that can be told: 13 years
// from the start of the wheel.
func (w *wheel) tickOf(t time.Time) int64 {
	d := t.Sub(w.start)
	n := int64(d / tick)
	if d%tick > 0 { // not d+tick-1: d is the longest there is if t is centuries away
		n++
	}
	return min(n, math.MaxUint32)
}

func (w *wheel) set(m *Subscriber, t time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.unlink(m)
	if t.IsZero() {
		return
	}
	m.dueTick = uint32(max(w.tickOf(t), w.now+1))
	slot := &w.slots[m.dueTick%wheelSlots]
	m.timer.next = *slot
	if *slot != nil {
		(*slot).timer.prev = m
	}
	*slot = m
}

func (w *wheel) remove(m *Subscriber) { w.set(m, time.Time{}) }

func (w *wheel) unlink(m *Subscriber) {
	t := &m.timer
	if m.dueTick == 0 {
		return
	}
	if t.prev != nil {
		t.prev.timer.next = t.next
	} else {
		w.slots[m.dueTick%wheelSlots] = t.next
	}
	if t.next != nil {
		t.next.timer.prev = t.prev
	}
	*t, m.dueTick = timer{}, 0
}

// advance collects the members whose deadline has come; ring calls their holders.
func (w *wheel) advance(now time.Time) {
	target := int64(now.Sub(w.start) / tick) // the last tick that has come
	w.mu.Lock()
	for w.now < target {
		w.now++
		for m := w.slots[w.now%wheelSlots]; m != nil; {
			next := m.timer.next
			if int64(m.dueTick) <= w.now {
				w.unlink(m)
				w.due = append(w.due, m)
			}
			m = next
		}
	}
	w.mu.Unlock()
}

// fire calls the holders of up to n due members and reports whether there were any.
func (w *wheel) fire(n int) bool {
	kept := max(0, len(w.due)-n)
	some := len(w.due) > 0
	for i, m := range w.due[kept:] {
		m.reachDeadline()
		w.due[kept+i] = nil
	}
	w.due = w.due[:kept]
	return some
}
