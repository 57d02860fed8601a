package park

import (
	"io"
	"net"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Conn is a connection that [Lot.Park] has parked.
type Conn struct {
	// immutable
	poller  *poller
	handler Handler
	slot    uint32
	turn    uint32

	deadline atomic.Int64 // nanoseconds from poller.began; valid while in poller.due

	mu sync.Mutex
	// guarded by mu
	fd      int32   // -1 once closed
	reading bool    // Readable was called, and Resume has not been called since
	broken  bool    // writes fail from now on
	queued  bool    // a ring is about to send over fd, and closes it if c is closed by then
	kept    *[]byte // bytes that the kernel has not accepted yet, or nil
}

// Park duplicates the descriptor of nc, closes nc, and holds the connection as c. nc must
// be a TCP connection, or wrap one and have a method Raw or NetConn that returns it. c must
// be the zero value; it is usually a field of h. Park returns the bytes that a wrapper of
// nc has read ahead. Readable is not called before the first Resume. After an error c
// must not be used.
func (l *Lot) Park(c *Conn, nc net.Conn, h Handler) (early []byte, err error) {
	defer nc.Close()
	if early, err = takeBuffered(nc); err != nil {
		return nil, err
	}
	fd, err := duplicate(nc)
	if err != nil {
		return nil, err
	}
	l.opts.Opened(nc)
	p := l.pollers[l.next.Add(1)%uint32(len(l.pollers))]
	c.poller, c.handler, c.fd, c.reading = p, h, int32(fd), true
	tune(fd, &l.opts)
	p.mu.Lock()
	if n := len(p.free); n > 0 {
		c.slot = p.free[n-1]
		p.free = p.free[:n-1]
	} else {
		c.slot = uint32(len(p.slots))
		p.slots = append(p.slots, slot{})
	}
	p.slots[c.slot].turn++
	p.slots[c.slot].conn = c
	c.turn = p.slots[c.slot].turn
	p.mu.Unlock()
	if err := c.control(unix.EPOLL_CTL_ADD, 0); err != nil {
		c.Close()
		return nil, err
	}
	return early, nil
}

// control makes epoll report the next of events, once. mu must be held, except in Park.
func (c *Conn) control(op int, events uint32) error {
	ev := unix.EpollEvent{Events: events | unix.EPOLLONESHOT, Fd: int32(c.slot), Pad: int32(c.turn)}
	return unix.EpollCtl(c.poller.epoll, op, int(c.fd), &ev)
}

// arm makes epoll report the events that c waits for now; mu must be held.
func (c *Conn) arm() {
	var events uint32
	if !c.reading {
		events |= unix.EPOLLIN | unix.EPOLLRDHUP
	}
	if c.kept != nil {
		events |= unix.EPOLLOUT
	}
	if c.fd < 0 || events == 0 {
		return
	}
	if err := c.control(unix.EPOLL_CTL_MOD, events); err != nil {
		panic("park: epoll_ctl: " + err.Error()) // the descriptors are ours, and open
	}
}

// handleEvents handles the events that epoll has reported. The poller's goroutine calls it.
func (c *Conn) handleEvents(events uint32) {
	var readable, writable bool
	c.mu.Lock()
	if c.fd < 0 {
		c.mu.Unlock()
		return
	}
	if c.kept != nil && !c.queued && events&(unix.EPOLLOUT|unix.EPOLLERR|unix.EPOLLHUP) != 0 {
		writable = c.flush()
	}
	if !c.reading && events&^unix.EPOLLOUT != 0 {
		readable, c.reading = true, true
	}
	c.arm()
	c.mu.Unlock()
	if writable {
		c.handler.Writable()
	}
	if readable {
		c.handler.Readable()
	}
}

// flush writes the kept bytes and reports whether none are left; mu must be held.
func (c *Conn) flush() bool {
	n, err := c.write(*c.kept)
	if err == nil && n < len(*c.kept) {
		if n > 0 {
			c.overdueAfter(c.poller.opts.WriteTimeout)
			*c.kept = (*c.kept)[n:]
		}
		return false
	}
	c.broken, c.kept = c.broken || err != nil, nil
	c.notDue()
	setUserTimeout(int(c.fd), c.poller.opts.WriteTimeout)
	return true
}

// write writes as much of b as the kernel accepts without blocking; mu must be held.
func (c *Conn) write(b []byte) (int, error) {
	for n := 0; ; {
		k, err := unix.Write(int(c.fd), b[n:])
		switch {
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			return n, nil
		case err != nil:
			return n, err
		default:
			if n += k; n == len(b) {
				return n, nil
			}
		}
	}
}

// Write writes b without blocking, and keeps a copy of the bytes that the kernel does not
// accept now. It fails if the connection is closed or broken.
func (c *Conn) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.put(b)
}

// put is Write; mu must be held.
func (c *Conn) put(b []byte) (int, error) {
	switch {
	case c.fd < 0 || c.broken:
		return 0, net.ErrClosed
	case c.kept != nil:
		*c.kept = append(*c.kept, b...)
		return len(b), nil
	case c.queued: // sent writes it
		kept := append([]byte(nil), b...)
		c.kept = &kept
		return len(b), nil
	}
	n, err := c.write(b)
	if err != nil {
		c.broken = true
		return n, err
	}
	if n < len(b) {
		c.keep(append([]byte(nil), b[n:]...))
	}
	return len(b), nil
}

// keep keeps b until the kernel accepts it; mu must be held. Meanwhile check decides whether
// the peer has timed out, and not the kernel: if a small window closes again and again,
// the kernel gives up a peer that takes less than a packet of 64 KiB within its timeout.
func (c *Conn) keep(b []byte) {
	c.kept = &b
	setUserTimeout(int(c.fd), 0)
	c.overdueAfter(c.poller.opts.WriteTimeout)
	c.arm()
}

// Blocked reports whether kept bytes wait for the kernel. Writable will be called.
func (c *Conn) Blocked() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.kept != nil
}

// Read reads without blocking. It returns [ErrWouldBlock] if no bytes have arrived, and
// [io.EOF] at the end.
func (c *Conn) Read(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fd < 0 {
		return 0, net.ErrClosed
	}
	for {
		n, err := unix.Read(int(c.fd), b)
		switch {
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			return 0, ErrWouldBlock
		case err != nil:
			return 0, err
		case n == 0:
			return 0, io.EOF
		default:
			return n, nil
		}
	}
}

// Unread reports whether the kernel holds received bytes that Read has not returned.
func (c *Conn) Unread() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.fd >= 0 && hasUnread(int(c.fd))
}

// Resume makes the lot call Readable once there are bytes, or the end, to read.
func (c *Conn) Resume() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reading = false
	c.arm()
}

// Finish closes the sending side. The connection becomes readable when the peer closes
// the other side.
func (c *Conn) Finish() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fd < 0 {
		return
	}
	c.broken = true
	unix.Shutdown(int(c.fd), unix.SHUT_WR)
}

// Close closes the connection. Afterwards the handler is not called again, but a call may
// still be under way.
func (c *Conn) Close() error {
	c.mu.Lock()
	fd, queued := c.fd, c.queued
	c.fd, c.kept = -1, nil
	c.mu.Unlock()
	if fd < 0 {
		return net.ErrClosed
	}
	p := c.poller
	p.mu.Lock()
	delete(p.due, c)
	p.slots[c.slot].conn = nil
	p.free = append(p.free, c.slot)
	p.mu.Unlock()
	if queued {
		return nil // the ring closes fd, so that it cannot send to the next connection with that number
	}
	return c.release(fd)
}

// release closes the descriptor, which removes it from epoll.
func (c *Conn) release(fd int32) error {
	err := unix.Close(int(fd))
	c.poller.opts.Closed()
	return err
}
