package server

import (
	"net/netip"
	"testing"
	"time"
)

func TestPublishersAreForgotten(t *testing.T) {
	r := newRateLimiter()
	now := time.Unix(1e9, 0)
	busy := publisher{1}
	name := func(i int) publisher { return publisher{2, byte(i), byte(i >> 8), byte(i >> 16)} }
	passed := 0
	for i := range 20 * minSweep { // one a millisecond
		r.take(name(i), 10, now)
		if _, ok := r.take(busy, 10, now); ok {
			passed++
		}
		now = now.Add(time.Millisecond)
	}
	if n := len(r.limiters); n > 3*minSweep {
		t.Errorf("%d publishers are remembered", n)
	}
	// A sweep that forgot the busy one would have given it its burst again.
	if want := 10 + 20*minSweep/100; passed < want-1 || passed > want+1 {
		t.Errorf("the busy one published %d messages, not %d", passed, want)
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
		t.Errorf("changed: a burst of %d", n)
	}
	now = now.Add(time.Hour)
	if n := count(20); n != 20 {
		t.Errorf("then: a burst of %d", n)
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

func TestNetworks(t *testing.T) {
	for _, c := range []struct {
		a, b string
		same bool
	}{
		{"192.0.2.1", "192.0.2.1", true},
		{"192.0.2.1", "192.0.2.2", false},
		{"192.0.2.1", "::ffff:192.0.2.1", true},
		{"2001:db8:0:1::1", "2001:db8:0:1:ffff::", true},
		{"2001:db8:0:1::1", "2001:db8:0:2::1", false},
		{"192.0.2.1", "::c000:201:0:0:0:0", false},
		{"0.0.0.0", "::", false},
	} {
		a, b := networkOf(netip.MustParseAddr(c.a)), networkOf(netip.MustParseAddr(c.b))
		if (a == b) != c.same {
			t.Errorf("%s, %s: %v, %v", c.a, c.b, a, b)
		}
	}
}

func TestConnectionLimits(t *testing.T) {
	s := New(Options{Backplane: &faulty{}, Limits: Limits{MaxConnections: 4, MaxConnectionsPerIP: 2}})
	c := s.conns
	var held []*share
	take := func(addr string, want bool) {
		t.Helper()
		var a netip.Addr // of a Unix socket
		if addr != "" {
			a = netip.MustParseAddr(addr)
		}
		place, ok := s.acquire(c, a)
		if ok != want {
			t.Fatalf("%q: admitted %v, want %v", addr, ok, want)
		}
		if ok {
			held = append(held, place)
		}
	}
	give := func(i int) {
		s.release(held[i])
		held = append(held[:i], held[i+1:]...)
	}
	take("192.0.2.1", true)
	take("::ffff:192.0.2.1", true)
	take("192.0.2.1", false) // of one address
	take("2001:db8:0:1::1", true)
	take("2001:db8:0:1::2", true)
	take("192.0.2.9", false) // of all
	give(0)
	take("2001:db8:0:1::3", false) // of one /64
	take("192.0.2.1", true)
	give(0)
	take("", true)
	give(len(held) - 1)

	s.Reload(Limits{}) // no limit
	for range 10 {
		take("192.0.2.1", true)
	}
	s.Reload(Limits{MaxConnectionsPerIP: 3})
	take("192.0.2.1", true) // its third: those admitted without a limit do not count
	take("192.0.2.1", true)
	take("192.0.2.1", false)
	s.Reload(Limits{MaxConnections: len(held)})
	take("192.0.2.2", false)
	for len(held) > 0 {
		give(0)
	}
	if c.total != 0 || len(c.per) != 0 {
		t.Errorf("left over: %d, %v", c.total, c.per)
	}
}
