package hub

import (
	"context"
	"math"
	"testing"
	"testing/synctest"
	"time"
)

// alarm is a subscriber that reads on its own goroutine and records when it was woken.
type alarm struct {
	runner
	woken []time.Time // owned by the goroutine of run
}

func newAlarm(h *Hub) *alarm {
	a := new(alarm)
	a.init(h)
	a.onWake = func() { a.woken = append(a.woken, time.Now()) }
	return a
}

// inBubble calls f with a running hub in a synctest bubble.
func inBubble(t *testing.T, f func(ctx context.Context, h *Hub)) {
	synctest.Test(t, func(t *testing.T) {
		// Cancel before the bubble ends, because its goroutines must end, too.
		ctx, cancel := context.WithCancel(t.Context())
		h := New(Options{Backplane: newBackplane(), Shards: 2})
		go h.Run(ctx)
		f(ctx, h)
		cancel()
		synctest.Wait()
	})
}

// Deadlines, also those several turns of the wheel away, are never early, at most one
// tick late, and reported once.
func TestDeadlines(t *testing.T) {
	rnd := newRand(t)
	inBubble(t, func(ctx context.Context, h *Hub) {
		time.Sleep(37 * time.Millisecond) // between two ticks
		start := time.Now()
		const turn = tick * wheelSlots
		var alarms []*alarm
		var deadlines []time.Time
		for i := range 4000 {
			d := time.Duration(rnd.Int64N(int64(4 * turn)))
			if i%3 == 0 {
				d = time.Duration(rnd.Int64N(20)) * tick // exactly on a tick, and many the same
			}
			a := newAlarm(h)
			go a.run(ctx)
			a.SetDeadline(start.Add(d))
			alarms, deadlines = append(alarms, a), append(deadlines, start.Add(d))
		}
		time.Sleep(5 * turn)
		synctest.Wait()
		for i, a := range alarms {
			if len(a.woken) != 1 {
				t.Fatalf("woken %d times for one deadline", len(a.woken))
			}
			if late := a.woken[0].Sub(deadlines[i]); late < 0 || late > tick {
				t.Errorf("deadline after %v: %v late", deadlines[i].Sub(start), late)
			}
			a.Close()
		}
		h.checkEmpty(t)
	})
}

func TestDeadlineIsReplaced(t *testing.T) {
	inBubble(t, func(ctx context.Context, h *Hub) {
		start := time.Now()
		a := newAlarm(h)
		go a.run(ctx)
		for _, c := range []struct {
			name string
			set  []time.Duration // since start; negative means none
			want time.Duration   // since start; negative means never
		}{
			{"later", []time.Duration{time.Second, 3 * time.Second}, 3 * time.Second},
			{"sooner", []time.Duration{3 * time.Second, time.Second}, time.Second},
			{"the same", []time.Duration{time.Second, time.Second}, time.Second},
			{"a turn later", []time.Duration{time.Second, time.Second + tick*wheelSlots}, time.Second + tick*wheelSlots},
			{"removed", []time.Duration{time.Second, -1}, -1},
			{"removed and set", []time.Duration{time.Second, -1, 2 * time.Second}, 2 * time.Second},
			{"removed twice", []time.Duration{-1, -1}, -1},
			{"now", []time.Duration{0}, tick},
			{"centuries away", []time.Duration{time.Second, math.MaxInt64}, -1},
		} {
			a.woken = nil
			start = time.Now()
			for _, d := range c.set {
				switch {
				case d < 0:
					a.SetDeadline(time.Time{})
				case d == math.MaxInt64:
					a.SetDeadline(time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC))
				default:
					a.SetDeadline(start.Add(d))
				}
			}
			time.Sleep(100 * time.Second)
			synctest.Wait()
			if c.want < 0 {
				if len(a.woken) != 0 {
					t.Errorf("%s: woken after %v", c.name, a.woken[0].Sub(start))
				}
			} else if len(a.woken) != 1 || a.woken[0].Sub(start) != c.want {
				t.Errorf("%s: woken %v after %v, want once after %v", c.name, a.woken, start, c.want)
			}
		}
		// A deadline in the past is due at the next tick.
		a.woken = nil
		a.SetDeadline(start.Add(-time.Hour))
		time.Sleep(tick)
		synctest.Wait()
		if len(a.woken) != 1 {
			t.Errorf("a deadline in the past: woken %d times", len(a.woken))
		}
		closeAll(t, h, a)
	})
}

// Subscribers leave any position of a slot, and the list stays intact.
func TestDeadlineOfClosedSubscriber(t *testing.T) {
	rnd := newRand(t)
	inBubble(t, func(ctx context.Context, h *Hub) {
		var alarms []*alarm
		at := time.Now().Add(time.Second)
		for range 1000 {
			a := newAlarm(h)
			go a.run(ctx)
			a.SetDeadline(at)
			alarms = append(alarms, a)
		}
		closed := map[*alarm]bool{}
		for _, a := range alarms {
			if rnd.IntN(2) == 0 {
				a.Close()
				closed[a] = true
				a.SetDeadline(at)
			}
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		for _, a := range alarms {
			if got, want := len(a.woken), 1; closed[a] && got != 0 || !closed[a] && got != want {
				t.Errorf("woken %d times, closed: %v", got, closed[a])
			}
			a.Close()
		}
		h.checkEmpty(t)
	})
}

// A subscriber may be closed or get another deadline after its deadline was collected.
func TestClosedWhileDue(t *testing.T) {
	h := New(Options{Backplane: newBackplane(), Shards: 1})
	w := h.shards[0].wheel
	a, b := newPeer(h, ""), newPeer(h, "")
	a.SetDeadline(w.start.Add(tick))
	b.SetDeadline(w.start.Add(tick))
	w.advance(w.start.Add(tick))
	a.Close()
	b.SetDeadline(w.start.Add(3 * tick))
	h.pump()
	if a.wakes.Load() != 0 || b.wakes.Load() != 1 {
		t.Errorf("woken %d and %d times, want 0 and 1", a.wakes.Load(), b.wakes.Load())
	}
	b.drain()
	w.advance(w.start.Add(3 * tick))
	h.pump()
	if b.wakes.Load() != 2 {
		t.Error("the new deadline is not reported")
	}
	closeAll(t, h, b)
}

// After a long pause, for example of a suspended machine, no deadline is missed.
func TestWheelCatchesUp(t *testing.T) {
	h := New(Options{Backplane: newBackplane(), Shards: 1})
	w := h.shards[0].wheel
	var peers []*peer
	for i := range 3 * wheelSlots {
		p := newPeer(h, "")
		p.SetDeadline(w.start.Add(time.Duration(i) * tick))
		peers = append(peers, p)
	}
	w.advance(w.start.Add(2*wheelSlots*tick + tick/2))
	h.pump()
	for i, p := range peers {
		if due := i <= 2*wheelSlots; p.isAwake() != due {
			t.Errorf("tick %d: awake = %v", i, p.isAwake())
		}
	}
}

// A subscriber that is awake at its deadline calls Read once more before it sleeps.
func TestDeadlineWhileAwake(t *testing.T) {
	h := New(Options{Backplane: newBackplane(), Shards: 1})
	w := h.shards[0].wheel
	p := newPeer(h, "")
	p.resume(t, "t")
	p.SetDeadline(w.start.Add(tick))
	w.advance(w.start.Add(tick))
	h.pump()
	if p.wakes.Load() != 1 {
		t.Errorf("woken %d times without sleeping in between", p.wakes.Load())
	}
	for range 2 { // for the subscription, then for the deadline
		if _, asleep := p.Read(make([]Delivery, 0, 2), 0, time.Now()); asleep {
			t.Error("asleep before the deadline was handled")
		}
	}
	if _, asleep := p.Read(make([]Delivery, 0, 2), 0, time.Now()); !asleep {
		t.Error("not asleep")
	}
}
