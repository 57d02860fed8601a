package server

import "time"

// instant is a time in an eight-byte word: nanoseconds since a moment before the
// server began, by the monotonic clock. 0 stands for no time.
type instant int64

// instant returns the instant of t.
func (s *Server) instant(t time.Time) instant { return instant(t.Sub(s.began)) }

// time is the inverse of instant.
func (s *Server) time(i instant) time.Time { return s.began.Add(time.Duration(i)) }
