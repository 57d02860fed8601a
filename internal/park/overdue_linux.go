package park

import (
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxCheckEvery is the longest time between two checks of due connections.
	maxCheckEvery = time.Second
	// minCheckEvery is the shortest.
	minCheckEvery = 10 * time.Millisecond
)

// checkEvery returns the time between two checks of due connections. A check may notice
// progress, or the lack of it, that much later.
func (o *Options) checkEvery() time.Duration {
	if o.WriteTimeout <= 0 {
		return maxCheckEvery
	}
	return min(max(o.WriteTimeout/16, minCheckEvery), maxCheckEvery)
}

func (p *poller) hasDue() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.due) > 0
}

// check checks the due connections.
func (p *poller) check(now time.Time) {
	p.mu.Lock()
	for c := range p.due {
		p.checked = append(p.checked, c)
	}
	p.mu.Unlock()
	for _, c := range p.checked {
		c.check(now)
	}
	clear(p.checked)
	p.checked = p.checked[:0]
}

// check shuts c down if it is overdue, and its handler reads the end. The deadline moves
// whenever the peer has acknowledged some bytes. epoll cannot report that: it reports a
// socket as writable only when a third of its buffer is free, which a slow peer may not
// reach for a long time.
func (c *Conn) check(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fd < 0 || c.kept == nil && !c.broken {
		return // just closed, or the peer has taken everything
	}
	if !c.broken && c.progressed() {
		c.overdueAfter(c.poller.opts.WriteTimeout)
		return
	}
	if c.deadline.Load() > int64(now.Sub(c.poller.began)) {
		return
	}
	c.notDue()
	c.broken = true
	unix.Shutdown(int(c.fd), unix.SHUT_RDWR)
}

// progressed reports whether the peer has acknowledged bytes since the last check; mu is
// held.
func (c *Conn) progressed() bool {
	waiting := c.waiting()
	c.poller.mu.Lock()
	defer c.poller.mu.Unlock()
	before, ok := c.poller.due[c]
	return ok && waiting < before
}

// waiting returns the number of sent bytes that the peer has not acknowledged; mu must be held.
func (c *Conn) waiting() int {
	return unacknowledged(int(c.fd))
}

// overdueAfter makes the connection overdue in d; mu must be held.
func (c *Conn) overdueAfter(d time.Duration) {
	if d <= 0 {
		return
	}
	p := c.poller
	c.deadline.Store(int64(time.Since(p.began) + d))
	waiting := c.waiting()
	p.mu.Lock()
	first := len(p.due) == 0
	p.due[c] = waiting
	p.mu.Unlock()
	if first {
		p.wake() // because it waits without a timeout
	}
}

func (c *Conn) notDue() {
	c.poller.mu.Lock()
	delete(c.poller.due, c)
	c.poller.mu.Unlock()
}
