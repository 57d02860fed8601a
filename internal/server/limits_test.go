package server

import (
	"testing"
	"time"
)

func TestPublishersArePruned(t *testing.T) {
	r := newRateLimiter()
	now := time.Unix(1e9, 0)
	busy := publisher{1}
	name := func(i int) publisher { return publisher{2, byte(i), byte(i >> 8), byte(i >> 16)} }
	passed := 0
	for i := range 20 * minPrune { // one a millisecond
		r.take(name(i), 10, now)
		if _, ok := r.take(busy, 10, now); ok {
			passed++
		}
		now = now.Add(time.Millisecond)
	}
	if n := len(r.limiters); n > 3*minPrune {
		t.Errorf("%d limiters are kept", n)
	}
	// If the busy publisher had been pruned, it would have its burst again.
	if want := 10 + 20*minPrune/100; passed < want-1 || passed > want+1 {
		t.Errorf("the busy publisher published %d messages, want %d", passed, want)
	}
}

func TestRateIsChanged(t *testing.T) {
	r := newRateLimiter()
	now := time.Unix(1e9, 0)
	p := publisher{1}
	count := func(perSecond float64) (n int) {
		for n < 1000 {
			if _, ok := r.take(p, perSecond, now); !ok {
				break
			}
			n++
		}
		return n
	}
	if n := count(5); n != 5 {
		t.Errorf("a burst of %d", n)
	}
	now = now.Add(time.Hour)
	if n := count(20); n < 5 || n > 20 {
		t.Errorf("after a change: a burst of %d", n)
	}
	now = now.Add(time.Hour)
	if n := count(20); n != 20 {
		t.Errorf("an hour later: a burst of %d", n)
	}
	now = now.Add(time.Hour)
	if n := count(0.5); n != 1 {
		t.Errorf("one in two seconds: a burst of %d", n)
	}
	wait, ok := r.take(p, 0.5, now)
	if ok || wait != 2*time.Second {
		t.Errorf("wait %v, %v", wait, ok)
	}
}
