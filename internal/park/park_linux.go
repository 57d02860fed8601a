package park

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Lot holds connections. [New] makes one; [Lot.Run] must be running.
type Lot struct {
	// immutable
	opts    Options
	pollers []*poller

	next atomic.Uint32 // connection after connection, round the pollers
}

// poller waits for the events of a part of the connections.
type poller struct {
	// immutable
	epoll int
	waker int // an eventfd, written to when the poller has to look up
	opts  *Options
	began time.Time // deadlines count from it, by the monotonic clock

	checked []*Conn // owned by the poller's goroutine: scratch of check

	mu sync.Mutex
	// guarded by mu
	slots []slot // the events of a connection name its slot
	free  []uint32
	// due are the connections that will be closed unless their peer takes some bytes,
	// each with the number of bytes that were not acknowledged at the last check.
	due map[*Conn]int
}

// slot is where the connection of an event is found. Its turn tells it from those
// that had the slot before.
type slot struct {
	conn *Conn
	turn uint32
}

// wakerEvent is what the waker's events carry; no slot has that number.
const wakerEvent = ^uint32(0)

// New returns a lot. Its error says what the system has refused.
func New(o Options) (*Lot, error) {
	if o.Pollers == 0 {
		o.Pollers = runtime.GOMAXPROCS(0)
	}
	if o.Opened == nil {
		o.Opened = func(net.Conn) {}
	}
	if o.Closed == nil {
		o.Closed = func() {}
	}
	l := &Lot{opts: o}
	for range min(o.Pollers, 8) {
		p, err := newPoller(&l.opts)
		if err != nil {
			l.close()
			return nil, fmt.Errorf("park: %w", err)
		}
		l.pollers = append(l.pollers, p)
	}
	return l, nil
}

func newPoller(o *Options) (*poller, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	waker, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		unix.Close(epoll)
		return nil, err
	}
	p := &poller{epoll: epoll, waker: waker, opts: o, began: time.Now(), due: make(map[*Conn]int)}
	ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: -1}
	if err := unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, waker, &ev); err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

func (p *poller) close() {
	unix.Close(p.epoll)
	unix.Close(p.waker)
}

func (l *Lot) close() {
	for _, p := range l.pollers {
		p.close()
	}
}

// Run serves the lot until ctx is done. The connections must have been closed
// before it returns, or they never are. It is called once.
func (l *Lot) Run(ctx context.Context) {
	var wg sync.WaitGroup
	for _, p := range l.pollers {
		wg.Go(func() { p.run(ctx) })
		wg.Go(func() {
			<-ctx.Done()
			p.wake() // before l.close, which gives the waker's number to whoever opens next
		})
	}
	wg.Wait()
	l.close()
}

func (p *poller) wake() {
	one := [8]byte{1}
	unix.Write(p.waker, one[:])
}

const (
	// maxCheckEvery is the longest time between two checks of due connections.
	maxCheckEvery = time.Second
	// minCheckEvery is the shortest such time.
	minCheckEvery = 10 * time.Millisecond
)

// checkEvery is the time between two checks of due connections. It is also the delay with
// which a check may notice that a peer has taken some bytes, or none for too long.
func (o *Options) checkEvery() time.Duration {
	if o.WriteTimeout <= 0 {
		return maxCheckEvery
	}
	return min(max(o.WriteTimeout/16, minCheckEvery), maxCheckEvery)
}

func (p *poller) run(ctx context.Context) {
	events := make([]unix.EpollEvent, 256)
	every := p.opts.checkEvery()
	checked := time.Now()
	for ctx.Err() == nil {
		timeout := -1
		if p.hasDue() {
			timeout = int(every / time.Millisecond)
		}
		n, err := unix.EpollWait(p.epoll, events, timeout)
		if err != nil && err != unix.EINTR {
			panic("park: epoll_wait: " + err.Error()) // the descriptor is ours, and open
		}
		for i := range max(n, 0) {
			if c := p.at(&events[i]); c != nil {
				c.happened(events[i].Events)
			}
		}
		if n > 0 {
			// Those that were woken would wait in the queue of a processor that waits in
			// epoll_wait, until the runtime looks there.
			runtime.Gosched()
		}
		if now := time.Now(); now.Sub(checked) >= every {
			checked = now
			p.check(now)
		}
	}
}

func (p *poller) at(ev *unix.EpollEvent) *Conn {
	index := uint32(ev.Fd)
	if index == wakerEvent {
		var count [8]byte
		unix.Read(p.waker, count[:])
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if int(index) >= len(p.slots) || p.slots[index].turn != uint32(ev.Pad) {
		return nil
	}
	return p.slots[index].conn
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

// Conn is a connection that [Lot.Park] has parked.
type Conn struct {
	// immutable
	poller  *poller
	handler Handler
	slot    uint32
	turn    uint32

	deadline atomic.Int64 // when it is overdue, while it is in poller.due: nanoseconds from poller.began

	mu sync.Mutex
	// guarded by mu
	fd      int32   // -1 once closed
	reading bool    // Readable was called and Resume was not
	broken  bool    // nothing can be written any more
	queued  bool    // a ring is about to send over fd, and to close it if fd is -1 then
	kept    *[]byte // what the kernel has not taken yet; nil if there is nothing
}

// Park takes nc, which must be a TCP connection or wrap one with a method Raw or
// NetConn, and parks it as c, which has its zero value and lies in what its handler
// has for the connection. It returns what was read from nc already and nobody has
// taken. nc is closed, its connection is not. The first Readable may come once
// Resume has been called. After an error c is not to be used.
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

// takeBuffered reads what a wrapper of the PROXY protocol has read already.
func takeBuffered(nc net.Conn) (early []byte, err error) {
	if w, ok := nc.(interface{ NetConn() net.Conn }); ok {
		nc = w.NetConn()
	}
	if _, plain := nc.(*net.TCPConn); plain {
		return nil, nil
	}
	if err := nc.SetReadDeadline(time.Unix(1, 0)); err != nil {
		return nil, err
	}
	b := make([]byte, 4096)
	for {
		n, err := nc.Read(b)
		early = append(early, b[:n]...)
		if err != nil || len(early) > 1<<20 {
			return early, nil // the deadline, or an end that will be read again
		}
	}
}

// duplicate returns a descriptor of its own for the TCP connection in nc.
func duplicate(nc net.Conn) (fd int, err error) {
	raw, err := rawConn(nc)
	if err != nil {
		return -1, err
	}
	ctlErr := raw.Control(func(orig uintptr) { fd, err = unix.FcntlInt(orig, unix.F_DUPFD_CLOEXEC, 0) })
	if err := errors.Join(ctlErr, err); err != nil {
		return -1, fmt.Errorf("park: %w", err)
	}
	return fd, nil
}

// rawConn returns access to the descriptor of the TCP connection in nc.
func rawConn(nc net.Conn) (syscall.RawConn, error) {
	for {
		switch c := nc.(type) {
		case interface{ Raw() net.Conn }:
			nc = c.Raw()
		case interface{ NetConn() net.Conn }:
			nc = c.NetConn()
		case syscall.Conn:
			return c.SyscallConn()
		default:
			return nil, fmt.Errorf("park: %T has no descriptor", nc)
		}
	}
}

// Unread reports whether the kernel holds bytes that nobody has read from the TCP
// connection in nc.
func Unread(nc net.Conn) (unread bool) {
	if raw, err := rawConn(nc); err == nil {
		raw.Control(func(fd uintptr) { unread = hasUnread(int(fd)) })
	}
	return unread
}

func hasUnread(fd int) bool {
	n, err := unix.IoctlGetInt(fd, unix.SIOCINQ)
	return err == nil && n > 0
}

// sendBuffer bounds what the kernel keeps for a peer that does not read; it
// doubles the number for its own bookkeeping. A connection over a long fat
// network is so limited to that much in a round trip, which is plenty for live
// state.
const sendBuffer = 128 << 10

// tune is best effort: a socket that refuses works all the same.
func tune(fd int, o *Options) {
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, sendBuffer)
	setUserTimeout(fd, o.WriteTimeout)
}

// setUserTimeout has the kernel give up a peer that is gone without a word.
func setUserTimeout(fd int, d time.Duration) {
	unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(d/time.Millisecond))
}

// SetUserTimeout makes the kernel give up the TCP connection in nc once its peer has
// acknowledged none of the waiting bytes for d. With 0 the kernel uses its default, many
// minutes.
func SetUserTimeout(nc net.Conn, d time.Duration) {
	if raw, err := rawConn(nc); err == nil {
		raw.Control(func(fd uintptr) { setUserTimeout(int(fd), d) })
	}
}

// control sets the events that are waited for, once; mu is held, but in Park.
func (c *Conn) control(op int, events uint32) error {
	ev := unix.EpollEvent{Events: events | unix.EPOLLONESHOT, Fd: int32(c.slot), Pad: int32(c.turn)}
	return unix.EpollCtl(c.poller.epoll, op, int(c.fd), &ev)
}

// arm waits for what is to be waited for; mu is held.
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

// happened is called by the poller's goroutine.
func (c *Conn) happened(events uint32) {
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

// flush writes what was kept and reports whether nothing is left of it; mu is
// held.
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

// write writes without blocking what the kernel takes; mu is held.
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

// Write writes b without blocking, and keeps what the kernel does not take now.
// The error says that the connection is closed or broken.
func (c *Conn) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.put(b)
}

// put is Write; mu is held.
func (c *Conn) put(b []byte) (int, error) {
	switch {
	case c.fd < 0 || c.broken:
		return 0, net.ErrClosed
	case c.kept != nil:
		*c.kept = append(*c.kept, b...)
		return len(b), nil
	case c.queued: // sent sees to it
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

// keep has b written once the kernel takes more; mu is held. Until then overdue
// decides, not the kernel: behind a small window that closes again and again the
// kernel gives up a peer that takes less than a packet of 64 KiB in its timeout.
func (c *Conn) keep(b []byte) {
	c.kept = &b
	setUserTimeout(int(c.fd), 0)
	c.overdueAfter(c.poller.opts.WriteTimeout)
	c.arm()
}

// Blocked reports whether something is kept that the kernel has not taken:
// Writable follows.
func (c *Conn) Blocked() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.kept != nil
}

// Read reads without blocking; [ErrWouldBlock] if there is nothing.
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

// Unread reports whether the kernel holds bytes that nobody has read.
func (c *Conn) Unread() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.fd >= 0 && hasUnread(int(c.fd))
}

// Resume has Readable called again once there is something to read.
func (c *Conn) Resume() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reading = false
	c.arm()
}

// Finish closes the sending side. The connection becomes readable when the peer closes
// its own side.
func (c *Conn) Finish() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fd < 0 {
		return
	}
	c.broken = true
	unix.Shutdown(int(c.fd), unix.SHUT_WR)
}

// check ends a connection that is overdue; its handler reads the end. The time begins
// anew whenever the peer has acknowledged some bytes. A slow peer may take so little that
// epoll does not report the socket as writable for a long time: that needs a third of its
// buffer.
func (c *Conn) check(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fd < 0 || c.kept == nil && !c.broken {
		return // it has just been closed, or its peer has taken everything
	}
	if !c.broken && c.hasTaken() {
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

// hasTaken reports whether the peer has acknowledged bytes since the last check; mu is
// held.
func (c *Conn) hasTaken() bool {
	waiting := c.waiting()
	c.poller.mu.Lock()
	defer c.poller.mu.Unlock()
	before, ok := c.poller.due[c]
	return ok && waiting < before
}

// waiting is how many bytes the kernel holds that the peer's has not acknowledged;
// mu is held.
func (c *Conn) waiting() int {
	return unacknowledged(int(c.fd))
}

func unacknowledged(fd int) int {
	n, err := unix.IoctlGetInt(fd, unix.SIOCOUTQ)
	if err != nil {
		return 0 // not a TCP socket: it has taken nothing until epoll says so
	}
	return n
}

// Unacknowledged returns how many bytes written to the TCP connection in nc its peer has
// not acknowledged, or 0 if that cannot be known.
func Unacknowledged(nc net.Conn) (n int) {
	if raw, err := rawConn(nc); err == nil {
		raw.Control(func(fd uintptr) { n = unacknowledged(int(fd)) })
	}
	return n
}

// overdueAfter makes the connection overdue in d; mu is held.
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
		p.wake() // it waits without a timeout
	}
}

func (c *Conn) notDue() {
	c.poller.mu.Lock()
	delete(c.poller.due, c)
	c.poller.mu.Unlock()
}

// Close closes the connection. The handler is not called any more, but for a call
// that is under way.
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
		return nil // the ring closes it, lest it send to whoever has the number next
	}
	return c.release(fd)
}

// release closes the descriptor, which removes it from epoll.
func (c *Conn) release(fd int32) error {
	err := unix.Close(int(fd))
	c.poller.opts.Closed()
	return err
}
