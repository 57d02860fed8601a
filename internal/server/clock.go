package server

import (
	"context"
	"time"
)

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
		s.registry.TickAll()
	}
}

// wallAhead returns how much more time has passed by the wall clock than by the
// monotonic one since the server began.
func (s *Server) wallAhead() time.Duration {
	now := s.o.Now()
	return now.Round(0).Sub(s.began.Round(0)) - now.Sub(s.began)
}
