package server

import (
	"encoding/binary"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// connLimiter counts the streams and sessions of this node, or those that are
// none yet.
type connLimiter struct {
	// guarded by mu
	mu    sync.Mutex
	total int
	per   map[network]*share // of those admitted while there was a limit per address
	rest  *share             // of all others
}

// network is whom max-connections-per-ip counts as one: an IPv4 address or an
// IPv6 /64. The zero network is counted nowhere.
type network struct {
	bits  uint64
	bytes uint8 // 4 or 8
}

func networkOf(a netip.Addr) network {
	a = a.Unmap()
	switch {
	case a.Is4():
		b := a.As4()
		return network{uint64(binary.BigEndian.Uint32(b[:])), 4}
	case a.Is6():
		b := a.As16()
		return network{binary.BigEndian.Uint64(b[:8]), 8}
	}
	return network{}
}

// share is what one network takes of a limiter, or all together that no limit
// per address counts. A connection holds it for its place, which is to be given
// back to release, once.
type share struct {
	// immutable
	limiter *connLimiter
	from    network

	n int // guarded by limiter.mu: connections
}

func newConnLimiter() *connLimiter {
	c := &connLimiter{per: make(map[network]*share)}
	c.rest = &share{limiter: c}
	return c
}

// acquire admits one more stream or session from a, unless the limits are
// reached. A connection that was admitted while there was no limit per address
// does not count for one that is set later.
func (s *Server) acquire(c *connLimiter, a netip.Addr) (place *share, ok bool) {
	l := s.live.Load()
	c.mu.Lock()
	defer c.mu.Unlock()
	if l.MaxConnections > 0 && c.total >= l.MaxConnections {
		return nil, false
	}
	place = c.rest
	if from := networkOf(a); l.MaxConnectionsPerIP > 0 && from.bytes > 0 {
		if place = c.per[from]; place == nil {
			place = &share{limiter: c, from: from}
			c.per[from] = place
		}
		if place.n >= l.MaxConnectionsPerIP {
			return nil, false
		}
	}
	place.n++
	c.total++
	return place, true
}

// release gives back what acquire gave.
func (s *Server) release(place *share) {
	c := place.limiter
	c.mu.Lock()
	defer c.mu.Unlock()
	c.total--
	place.n--
	if place.n == 0 && place != c.rest {
		delete(c.per, place.from)
	}
}

// held returns how many streams, sessions and WebSockets count for a network.
func (s *Server) held(from network) int {
	n := 0
	for _, c := range []*connLimiter{s.conns, s.strangers} {
		c.mu.Lock()
		if place := c.per[from]; place != nil {
			n += place.n
		}
		c.mu.Unlock()
	}
	return n
}

// publisher is whom publish-rate counts as one; see [credential]. It has no limit if
// it is zero: the administrator.
type publisher [16]byte

// rateLimiter holds the message rate of each publisher.
type rateLimiter struct {
	// guarded by mu
	mu       sync.Mutex
	limiters map[publisher]*rate.Limiter
	sweepAt  int // how many limiters make a sweep worth its time
}

const minSweep = 1024

func newRateLimiter() *rateLimiter {
	return &rateLimiter{limiters: make(map[publisher]*rate.Limiter), sweepAt: minSweep}
}

// mayPublish takes one message from the allowance of p. If there is none left, ok
// is false and wait says when there will be.
func (s *Server) mayPublish(p publisher) (wait time.Duration, ok bool) {
	perSecond := s.live.Load().PublishRate
	if perSecond <= 0 || p == (publisher{}) {
		return 0, true
	}
	return s.rates.take(p, perSecond, s.o.Now())
}

func (r *rateLimiter) take(p publisher, perSecond float64, now time.Time) (wait time.Duration, ok bool) {
	burst := max(1, int(perSecond))
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.limiters[p]
	if l == nil {
		r.sweep(now)
		l = rate.NewLimiter(rate.Limit(perSecond), burst)
		r.limiters[p] = l
	} else if l.Limit() != rate.Limit(perSecond) {
		l.SetLimitAt(now, rate.Limit(perSecond))
		l.SetBurstAt(now, burst)
	}
	if l.AllowN(now, 1) {
		return 0, true
	}
	lacking := 1 - l.TokensAt(now)
	return time.Duration(lacking / perSecond * float64(time.Second)), false
}

// sweep forgets the publishers that have their whole allowance, as a new one has,
// once there are twice as many as the last sweep left.
func (r *rateLimiter) sweep(now time.Time) {
	if len(r.limiters) < r.sweepAt {
		return
	}
	for p, l := range r.limiters {
		if l.TokensAt(now) >= float64(l.Burst()) {
			delete(r.limiters, p)
		}
	}
	r.sweepAt = max(minSweep, 2*len(r.limiters))
}
