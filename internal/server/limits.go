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
	per   map[network]int // of those admitted while there was a limit per address
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

// admission is a place within the limits on connections, to be given back to
// release, once.
type admission struct {
	limiter *connLimiter
	from    network
}

func newConnLimiter() *connLimiter { return &connLimiter{per: make(map[network]int)} }

// acquire admits one more stream or session from a, unless the limits are
// reached. A connection that was admitted while there was no limit per address
// does not count for one that is set later.
func (s *Server) acquire(c *connLimiter, a netip.Addr) (admission, bool) {
	l := s.live.Load()
	c.mu.Lock()
	defer c.mu.Unlock()
	if l.MaxConnections > 0 && c.total >= l.MaxConnections {
		return admission{}, false
	}
	var from network
	if l.MaxConnectionsPerIP > 0 {
		from = networkOf(a)
		if from.bytes > 0 {
			if c.per[from] >= l.MaxConnectionsPerIP {
				return admission{}, false
			}
			c.per[from]++
		}
	}
	c.total++
	return admission{c, from}, true
}

// release gives back what acquire gave.
func (s *Server) release(a admission) {
	c := a.limiter
	c.mu.Lock()
	defer c.mu.Unlock()
	c.total--
	if a.from.bytes == 0 {
		return
	}
	if c.per[a.from]--; c.per[a.from] <= 0 {
		delete(c.per, a.from)
	}
}

// publisher is whom publish-rate counts as one; see [credential].
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

// mayPublish takes one message from the allowance of c. If there is none left, ok
// is false and wait says when there will be.
func (s *Server) mayPublish(c *credential) (wait time.Duration, ok bool) {
	perSecond := s.live.Load().PublishRate
	if perSecond <= 0 || c.Admin {
		return 0, true
	}
	return s.rates.take(c.publisher, perSecond, s.o.Now())
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
