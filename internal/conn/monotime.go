package conn

import "time"

// monoTime is a time in an eight-byte word: nanoseconds since Options.Began by the
// monotonic clock. 0 means no time.
type monoTime int64

// mono returns t as a monoTime.
func (r *Registry) mono(t time.Time) monoTime { return monoTime(t.Sub(r.o.Began)) }

// time is the inverse of mono.
func (r *Registry) time(m monoTime) time.Time { return r.o.Began.Add(time.Duration(m)) }
