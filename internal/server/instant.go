package server

import (
	"context"
	"time"
)

// instant is a time in an eight-byte word: nanoseconds since a moment before the
// server began, by the monotonic clock. 0 stands for no time.
type instant int64

// instant returns the instant of t.
func (s *Server) instant(t time.Time) instant { return instant(t.Sub(s.began)) }

// time is the inverse of instant.
func (s *Server) time(i instant) time.Time { return s.began.Add(time.Duration(i)) }

const (
	// clockCheck is the time between two comparisons of the clocks.
	clockCheck = 5 * time.Second
	// clockTolerance is how far the clocks may drift apart unnoticed, as they do while
	// NTP adjusts the wall clock.
	clockTolerance = time.Second
)

// watchClock makes every connection check its token again after the wall clock has
// jumped, until ctx is done. Tokens expire by the wall clock, and all other times go by
// the monotonic clock, which does not jump. Comparing the two clocks for the whole node
// costs less than checking each connection more often.
func (s *Server) watchClock(ctx context.Context) {
	t := time.NewTicker(clockCheck)
	defer t.Stop()
	for ahead := s.wallAhead(); ; {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		by := s.wallAhead() - ahead
		if by.Abs() < clockTolerance {
			continue
		}
		ahead += by
		s.o.Events.ClockJumped(by)
		now := s.o.Now()
		for _, c := range s.registry.those(func(*conn) bool { return true }) {
			c.dueBy(now)
		}
	}
}

// wallAhead returns how much more time has passed by the wall clock than by the
// monotonic one since the server began.
func (s *Server) wallAhead() time.Duration {
	now := s.o.Now()
	return now.Round(0).Sub(s.began.Round(0)) - now.Sub(s.began)
}
