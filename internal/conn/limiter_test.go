package conn

import (
	"net/netip"
	"slices"
	"testing"
)

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
		a, b := NetworkOf(netip.MustParseAddr(c.a)), NetworkOf(netip.MustParseAddr(c.b))
		if (a == b) != c.same {
			t.Errorf("%s is in network %v, %s in %v; the same: %t, want %t", c.a, a, c.b, b, a == b, c.same)
		}
	}
}

func TestLimiter(t *testing.T) {
	l := NewLimiter()
	most, perNetwork := 4, 2
	var slots []Slot
	acquire := func(addr string, want bool) {
		t.Helper()
		var a netip.Addr // of a Unix socket
		if addr != "" {
			a = netip.MustParseAddr(addr)
		}
		slot, ok := l.Acquire(a, most, perNetwork)
		if ok != want {
			t.Fatalf("Acquire(%q) = %v, want %v", addr, ok, want)
		}
		if ok {
			slots = append(slots, slot)
		}
	}
	release := func(i int) {
		slots[i].Release()
		slots = slices.Delete(slots, i, i+1)
	}
	acquire("192.0.2.1", true)
	acquire("::ffff:192.0.2.1", true)
	acquire("192.0.2.1", false) // the limit per network
	acquire("2001:db8:0:1::1", true)
	acquire("2001:db8:0:1::2", true)
	acquire("192.0.2.9", false) // the limit in all
	if n := l.Count(NetworkOf(netip.MustParseAddr("192.0.2.1"))); n != 2 {
		t.Errorf("Count = %d, want 2", n)
	}
	release(0)
	acquire("2001:db8:0:1::3", false) // the limit for one /64
	acquire("192.0.2.1", true)
	release(0)
	acquire("", true)
	release(len(slots) - 1)

	most, perNetwork = 0, 0
	for range 10 {
		acquire("192.0.2.1", true)
	}
	perNetwork = 3
	acquire("192.0.2.1", true) // its third: those admitted without a limit do not count
	acquire("192.0.2.1", true)
	acquire("192.0.2.1", false)
	most, perNetwork = len(slots), 0
	acquire("192.0.2.2", false)
	for len(slots) > 0 {
		release(0)
	}
	if l.total != 0 || len(l.per) != 0 {
		t.Errorf("left over: %d, %v", l.total, l.per)
	}
}
