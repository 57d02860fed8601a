package server

import (
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"pubsub/internal/conn"
)

// acquire takes a slot of l for one more connection from a, unless the limits are
// reached.
func (s *Server) acquire(l *conn.Limiter, a netip.Addr) (slot conn.Slot, ok bool) {
	live := s.live.Load()
	return l.Acquire(a, live.MaxConnections, live.MaxConnectionsPerIP)
}

// countOf returns how many streams, sessions and WebSockets count for a network.
func (s *Server) countOf(from conn.Network) int {
	return s.conns.Count(from) + s.pending.Count(from)
}

// publisher identifies a publisher to the limit publish-rate; see [credential]. The zero
// publisher, the administrator, has no limit.
type publisher [16]byte

// rateLimiter holds the message rate of each publisher.
type rateLimiter struct {
	// guarded by mu
	mu       sync.Mutex
	limiters map[publisher]*rate.Limiter
	pruneAt  int // the number of limiters at which the next prune is worth its time
}

// minPrune is how many limiters are kept at least before they are pruned.
const minPrune = 1024

func newRateLimiter() *rateLimiter {
	return &rateLimiter{limiters: make(map[publisher]*rate.Limiter), pruneAt: minPrune}
}

// mayPublish takes one message from the allowance of p. If none is left, it returns the
// wait until there is one, and false.
func (s *Server) mayPublish(p publisher) (wait time.Duration, ok bool) {
	perSecond := s.live.Load().PublishRate
	if perSecond <= 0 || p == (publisher{}) {
		return 0, true
	}
	return s.rates.take(p, perSecond, s.o.Now())
}

// take is mayPublish at a rate of perSecond.
func (r *rateLimiter) take(p publisher, perSecond float64, now time.Time) (wait time.Duration, ok bool) {
	burst := max(1, int(perSecond))
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.limiters[p]
	if l == nil {
		r.prune(now)
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

// prune removes the publishers that have their whole allowance, because a new limiter has
// it as well. It waits until there are twice as many as the last time left.
func (r *rateLimiter) prune(now time.Time) {
	if len(r.limiters) < r.pruneAt {
		return
	}
	for p, l := range r.limiters {
		if l.TokensAt(now) >= float64(l.Burst()) {
			delete(r.limiters, p)
		}
	}
	r.pruneAt = max(minPrune, 2*len(r.limiters))
}
