package hub

import (
	"math"
	"sync"
	"time"
)

const (
	// tick is the resolution of deadlines.
	tick = 100 * time.Millisecond
	// wheelSlots is the number of ticks in a turn of the wheel, which takes 51.2 s. A
	// deadline further away stays in its slot for several turns.
	wheelSlots = 512
)

// wheel is a timer wheel for the deadlines of a shard's subscribers. A deadline costs two
// pointers and half a word, and no timer of the runtime.
type wheel struct {
	start time.Time // immutable: the time of tick 0

	mu sync.Mutex
	// guarded by mu
	now   int64 // the last tick that was handled
	slots [wheelSlots]*Subscriber

	due []*Subscriber // owned by the shard's goroutine: their deadlines have passed
}

// timer links a subscriber into a slot of a wheel. Its tick is Subscriber.dueTick.
type timer struct{ prev, next *Subscriber }

func newWheel(now time.Time) *wheel { return &wheel{start: now} }

// tickOf returns the first tick that is not before t. The maximum is the last tick that
// fits into Subscriber.dueTick, 13 years after the start of the wheel.
func (w *wheel) tickOf(t time.Time) int64 {
	d := t.Sub(w.start)
	n := int64(d / tick)
	if d%tick > 0 { // d+tick-1 could overflow: d is the maximum duration if t is centuries away
		n++
	}
	return min(n, math.MaxUint32)
}

// set replaces the deadline of s by t. The zero time means none.
func (w *wheel) set(s *Subscriber, t time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.unlink(s)
	if t.IsZero() {
		return
	}
	s.dueTick = uint32(max(w.tickOf(t), w.now+1))
	slot := &w.slots[s.dueTick%wheelSlots]
	s.timer.next = *slot
	if *slot != nil {
		(*slot).timer.prev = s
	}
	*slot = s
}

func (w *wheel) remove(s *Subscriber) { w.set(s, time.Time{}) }

// unlink removes s from its slot, if it is in one; mu must be held.
func (w *wheel) unlink(s *Subscriber) {
	t := &s.timer
	if s.dueTick == 0 {
		return
	}
	if t.prev != nil {
		t.prev.timer.next = t.next
	} else {
		w.slots[s.dueTick%wheelSlots] = t.next
	}
	if t.next != nil {
		t.next.timer.prev = t.prev
	}
	*t, s.dueTick = timer{}, 0
}

// advance moves the subscribers whose deadlines have passed from the slots to due.
func (w *wheel) advance(now time.Time) {
	target := int64(now.Sub(w.start) / tick)
	w.mu.Lock()
	for w.now < target {
		w.now++
		for s := w.slots[w.now%wheelSlots]; s != nil; {
			next := s.timer.next
			if int64(s.dueTick) <= w.now {
				w.unlink(s)
				w.due = append(w.due, s)
			}
			s = next
		}
	}
	w.mu.Unlock()
}

// fire calls the holders of up to n due subscribers and reports whether there were any.
func (w *wheel) fire(n int) bool {
	rest := max(0, len(w.due)-n)
	busy := len(w.due) > 0
	for i, s := range w.due[rest:] {
		s.reachDeadline()
		w.due[rest+i] = nil
	}
	w.due = w.due[:rest]
	return busy
}
