package conn

import (
	"encoding/binary"
	"net/netip"
	"sync"
)

// Limiter counts connections, in all and for each network.
type Limiter struct {
	mu sync.Mutex
	// guarded by mu
	total int
	per   map[Network]*quota // of connections admitted while there was a limit per network
	rest  *quota             // of all others
}

// Network is the unit of a limit per address: an IPv4 address or an IPv6 /64. The zero
// Network is not counted.
type Network struct {
	bits  uint64
	bytes uint8 // 4 or 8
}

// IsZero reports whether n is the network of no address, such as that of a Unix socket.
func (n Network) IsZero() bool { return n.bytes == 0 }

// NetworkOf returns the network of a. It is zero for the zero Addr.
func NetworkOf(a netip.Addr) Network {
	a = a.Unmap()
	switch {
	case a.Is4():
		b := a.As4()
		return Network{uint64(binary.BigEndian.Uint32(b[:])), 4}
	case a.Is6():
		b := a.As16()
		return Network{binary.BigEndian.Uint64(b[:8]), 8}
	}
	return Network{}
}

// quota counts the connections of one network, or all connections outside the limit per
// network.
type quota struct {
	// immutable
	limiter *Limiter
	from    Network

	n int // guarded by limiter.mu: connections
}

// Slot is a connection's place within the limits. It is a pointer to the quota of its
// network, so it costs one word. A slot is released once.
type Slot struct{ quota *quota }

// NewLimiter returns a limiter that counts no connection.
func NewLimiter() *Limiter {
	l := &Limiter{per: make(map[Network]*quota)}
	l.rest = &quota{limiter: l}
	return l
}

// Acquire takes a slot for one more connection from a, unless there are most connections in
// all, or perNetwork from the network of a. 0 means no limit. A connection that was admitted
// without a limit per network does not count for a later one.
func (l *Limiter) Acquire(a netip.Addr, most, perNetwork int) (slot Slot, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if most > 0 && l.total >= most {
		return Slot{}, false
	}
	q := l.rest
	if from := NetworkOf(a); perNetwork > 0 && !from.IsZero() {
		if q = l.per[from]; q == nil {
			q = &quota{limiter: l, from: from}
			l.per[from] = q
		}
		if q.n >= perNetwork {
			return Slot{}, false
		}
	}
	q.n++
	l.total++
	return Slot{q}, true
}

// Release releases the slot.
func (s Slot) Release() {
	q, l := s.quota, s.quota.limiter
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total--
	q.n--
	if q.n == 0 && q != l.rest {
		delete(l.per, q.from)
	}
}

// Count returns how many connections of a network count for a limit.
func (l *Limiter) Count(from Network) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if q := l.per[from]; q != nil {
		return q.n
	}
	return 0
}
