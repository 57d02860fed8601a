package conn

import (
	"errors"
	"net"
	"os"
	"time"

	"pubsub/internal/park"
)

// WriteLimit distinguishes a peer that takes nothing from a slow one. Its zero value is
// ready for use by the writer of one connection.
type WriteLimit struct {
	deadline time.Time // the write deadline that is set
}

// Write writes b to nc unless its peer acknowledges no byte for timeout, or up to an
// eighth longer. While the peer takes some bytes, Write may take longer. It ends earlier
// if another goroutine sets an earlier write deadline.
func (l *WriteLimit) Write(nc net.Conn, timeout time.Duration, b []byte) (n int, err error) {
	step := max(timeout/16, time.Millisecond) // how often a blocking peer is checked
	now := time.Now()
	last := now   // when the peer last took some bytes
	waiting := -1 // its unacknowledged bytes then; -1 if unknown
	wait := 2 * step
	blocked := false
	for {
		// Set only now and then, because setting a deadline moves a timer.
		if left := l.deadline.Sub(now); left < min(step, wait) || left > wait {
			l.deadline = now.Add(wait)
			if err := nc.SetWriteDeadline(l.deadline); err != nil {
				return n, err
			}
		}
		m, err := nc.Write(b[n:])
		n += m
		if err == nil || !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, err
		}
		if now = time.Now(); now.Before(l.deadline) {
			return n, err // another goroutine had set the deadline
		}
		if !blocked {
			// The kernel would give up a peer that takes less than a packet within its
			// timeout, because the peer's window closes again and again.
			blocked = true
			park.SetUserTimeout(nc, 0)
			defer park.SetUserTimeout(nc, timeout)
		}
		before := waiting
		if waiting = park.Unacknowledged(nc); m > 0 || waiting < before {
			last = now
		}
		left := timeout - now.Sub(last)
		if left <= 0 {
			return n, err
		}
		wait = min(2*step, left)
	}
}
