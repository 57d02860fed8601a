//go:build linux

// Package load is the load of a benchmark: many subscribers in one process, and publishers, which
// stamp each message with the time of its publishing.
package load

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Pool is many subscribers that connect and read as fast as they can. It has one goroutine and one
// epoll, so that the load takes little CPU time.
type Pool struct {
	// immutable
	addr    unix.SockaddrInet4
	stamped bool // measure the age of each message
	epoll   int
	done    chan struct{}

	// owned by the goroutine run
	conns   []conn
	next    int // the first connection that has not begun
	pending int // connections in their handshake
	atOnce  int // bounds pending

	stopping atomic.Bool

	mu sync.Mutex
	// guarded by mu
	err       error // of the first connection that failed
	live      int   // complete handshakes
	total     int
	counts    []int           // messages received, by connection
	reached   []int           // connections that have received at least i+1 messages
	reachedAt []time.Time     // when the last of all has received message i+1
	ages      []time.Duration // of the messages received, if stamped
	changed   chan struct{}   // closed and replaced when live or an entry of reached is complete
}

// conn is a connection; its fields belong to the pool's goroutine.
type conn struct {
	fd     int
	begun  bool   // the first step was sent
	steps  []Step // the rest of the handshake
	answer []byte // incomplete, to the first step
	// The last bytes read, in which a stamp may begin.
	tail [tailRoom]byte
	kept int
}

// A message ends in a stamp, the nanoseconds from epoch to its publishing in
// stampDigits digits, and the marker.
const (
	stampDigits = 18
	marker      = "~M~"
	tailRoom    = stampDigits + len(marker) - 1
)

// epoch is the time that stamps count from: the start of the machine, which is the same for all
// processes of a measurement.
var epoch = started()

func started() time.Time {
	now := time.Now() // differences are of CLOCK_MONOTONIC
	var up unix.Timespec
	unix.ClockGettime(unix.CLOCK_MONOTONIC, &up)
	return now.Add(-time.Duration(up.Nano()))
}

// Now returns the time since the start of the machine, the same in all processes.
func Now() time.Duration { return time.Since(epoch) }

// connectTimeout bounds the time without a new connection while some are missing.
const connectTimeout = 20 * time.Second

// New starts to open a connection to addr for each handshake, atOnce at a time.
func New(addr string, handshakes [][]Step, atOnce int, stamped bool) (*Pool, error) {
	ap, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, err
	}
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	p := &Pool{
		addr:    unix.SockaddrInet4{Port: int(ap.Port()), Addr: ap.Addr().As4()},
		stamped: stamped, epoll: epoll, done: make(chan struct{}),
		conns: make([]conn, len(handshakes)), atOnce: atOnce,
	}
	for i := range p.conns {
		p.conns[i] = conn{fd: -1, steps: handshakes[i]}
	}
	p.resetCounts()
	go p.run()
	return p, nil
}

// Connect opens a connection to addr for each handshake. It returns when all handshakes are
// complete, and how long they took.
func Connect(addr string, handshakes [][]Step, stamped bool) (*Pool, time.Duration, error) {
	const atOnce = 128
	began := time.Now()
	p, err := New(addr, handshakes, atOnce, stamped)
	if err != nil {
		return nil, 0, err
	}
	if err := p.WaitLive(); err != nil {
		p.Close()
		return nil, 0, err
	}
	return p, time.Since(began), nil
}

func (p *Pool) run() {
	defer close(p.done)
	events := make([]unix.EpollEvent, 512)
	buf := make([]byte, tailRoom+256<<10)
	for !p.stopping.Load() {
		for p.next < len(p.conns) && p.pending < p.atOnce {
			if err := p.begin(p.next); err != nil {
				p.fail(p.next, err)
			}
			p.next++
		}
		n, err := unix.EpollWait(p.epoll, events, 100)
		if err != nil && err != unix.EINTR {
			p.fail(0, fmt.Errorf("epoll: %w", err))
			return
		}
		for _, ev := range events[:max(n, 0)] {
			p.serve(int(ev.Fd), buf)
		}
	}
}

// begin starts connection i. Its events are edge-triggered.
func (p *Pool) begin(i int) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	p.conns[i].fd = fd
	p.pending++
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
		return err
	}
	// Close with a reset, so that no port stays in TIME_WAIT.
	if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
		return err
	}
	// Use another source address after some thousand connections, because each has few ports.
	source := unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, byte(1 + i>>13)}}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1); err != nil {
		return err
	}
	if err := unix.Bind(fd, &source); err != nil {
		return err
	}
	if err := unix.Connect(fd, &p.addr); err != nil && err != unix.EINPROGRESS {
		return err
	}
	ev := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | edgeTriggered, Fd: int32(i)}
	return unix.EpollCtl(p.epoll, unix.EPOLL_CTL_ADD, fd, &ev)
}

const edgeTriggered = 1 << 31 // EPOLLET, which x/sys has as a negative number

// serve serves connection i without waiting. The start of buf has room for a tail.
func (p *Pool) serve(i int, buf []byte) {
	c := &p.conns[i]
	if len(c.steps) > 0 && !c.begun {
		// If the connection has failed, so does this.
		c.begun = true
		if err := c.send(); err != nil {
			p.fail(i, err)
			return
		}
	}
	for c.fd >= 0 {
		n, err := unix.Read(c.fd, buf[tailRoom:])
		switch {
		case err == unix.EAGAIN || err == unix.EINTR:
			return
		case err != nil:
			p.fail(i, err)
			return
		case n == 0:
			p.fail(i, errors.New("closed by the server"))
			return
		}
		b := buf[tailRoom-c.kept : tailRoom+n]
		copy(b, c.tail[:c.kept])
		if len(c.steps) > 0 {
			if b, err = p.shake(c, b); err != nil {
				p.fail(i, err)
				return
			}
		}
		p.count(i, b)
		if n < len(buf)-tailRoom {
			return
		}
	}
}

// send sends the next step of the handshake, which fits into an empty socket.
func (c *conn) send() error {
	_, err := unix.Write(c.fd, c.steps[0].Send)
	return err
}

// shake continues the handshake of c and returns the bytes after it.
func (p *Pool) shake(c *conn, b []byte) (rest []byte, err error) {
	b = append(c.answer, b...)
	for {
		n, err := c.steps[0].Answer(b)
		if err != nil {
			return nil, fmt.Errorf("%w: %q", err, b)
		}
		if n == 0 {
			c.answer = b
			return nil, nil
		}
		b, c.steps = b[n:], c.steps[1:]
		if len(c.steps) == 0 {
			c.answer = nil
			p.completed()
			return b, nil
		}
		if err := c.send(); err != nil {
			return nil, err
		}
	}
}

// completed notes a complete handshake.
func (p *Pool) completed() {
	p.pending--
	p.mu.Lock()
	defer p.mu.Unlock()
	p.live++
	if p.live == len(p.conns) {
		p.wake()
	}
}

// wake wakes those that wait for a change. mu must be held.
func (p *Pool) wake() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// fail closes connection i.
func (p *Pool) fail(i int, err error) {
	c := &p.conns[i]
	if c.fd >= 0 {
		unix.Close(c.fd)
		c.fd = -1
	}
	if len(c.steps) > 0 {
		p.pending--
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		p.err = fmt.Errorf("subscriber %d of %d: %w", i, len(p.conns), err)
		p.wake()
	}
}

// count counts the messages that end in b, which begins with the tail of the bytes before.
func (p *Pool) count(i int, b []byte) {
	now := Now()
	n := 0
	for {
		k := bytes.Index(b, []byte(marker))
		if k < 0 {
			break
		}
		if p.stamped && k >= stampDigits {
			if at, err := strconv.ParseInt(string(b[k-stampDigits:k]), 10, 64); err == nil {
				p.mu.Lock()
				p.ages = append(p.ages, now-time.Duration(at))
				p.mu.Unlock()
			}
		}
		n++
		b = b[k+len(marker):]
	}
	c := &p.conns[i]
	c.kept = copy(c.tail[:], b[max(0, len(b)-len(c.tail)):])
	if n > 0 {
		p.add(i, n)
	}
}

func (p *Pool) add(i, n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.total += n
	for range n {
		k := p.counts[i]
		p.counts[i]++
		for len(p.reached) <= k {
			p.reached = append(p.reached, 0)
			p.reachedAt = append(p.reachedAt, time.Time{})
		}
		if p.reached[k]++; p.reached[k] == len(p.conns) {
			p.reachedAt[k] = time.Now()
			p.wake()
		}
	}
}

// Reset forgets all messages.
func (p *Pool) Reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.resetCounts()
}

func (p *Pool) resetCounts() {
	p.total, p.reached, p.reachedAt, p.ages = 0, nil, nil, nil
	p.counts = make([]int, len(p.conns))
	p.changed = make(chan struct{})
}

// WaitLive returns when all handshakes are complete.
func (p *Pool) WaitLive() error {
	for before := -1; ; {
		p.mu.Lock()
		live, err, changed := p.live, p.err, p.changed
		p.mu.Unlock()
		if err != nil || live == len(p.conns) {
			return err
		}
		select {
		case <-changed:
		case <-time.After(connectTimeout):
			if live == before {
				return fmt.Errorf("%d of %d subscribers are connected, and no further one since %v", live, len(p.conns), connectTimeout)
			}
			before = live
		}
	}
}

// WaitAll waits until every connection has received n messages, and reports whether they have.
// It gives up after a timeout without a message, or when a connection has failed.
func (p *Pool) WaitAll(n int, timeout time.Duration) bool {
	for {
		p.mu.Lock()
		all := n <= 0 || len(p.reached) >= n && p.reached[n-1] == len(p.conns)
		changed, before, err := p.changed, p.total, p.err
		p.mu.Unlock()
		if all || err != nil {
			return all
		}
		select {
		case <-changed:
		case <-time.After(timeout):
			if p.Received() == before {
				return false
			}
		}
	}
}

// Size returns the number of subscribers.
func (p *Pool) Size() int { return len(p.conns) }

// Received returns how many messages all subscribers together have received since Reset.
func (p *Pool) Received() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.total
}

// TakeAges returns the ages of the messages since the last call or Reset, and forgets them.
func (p *Pool) TakeAges() []time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	ages := p.ages
	p.ages = nil
	return ages
}

// Failed returns the error of the first connection that has ended, or nil.
func (p *Pool) Failed() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// LastAfter returns, for each message that all subscribers have received, the time from sent to its
// last delivery.
func (p *Pool) LastAfter(sent []time.Time) []time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	var ds []time.Duration
	for i, at := range p.reachedAt {
		if !at.IsZero() && i < len(sent) {
			ds = append(ds, at.Sub(sent[i]))
		}
	}
	return ds
}

// LastAt returns when the last subscriber received its nth message since Reset, as Now counts.
// It returns 0 if some have not received it.
func (p *Pool) LastAt(n int) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n < 1 || len(p.reachedAt) < n || p.reachedAt[n-1].IsZero() {
		return 0
	}
	return p.reachedAt[n-1].Sub(epoch)
}

// Close ends all connections.
func (p *Pool) Close() {
	p.stopping.Store(true)
	<-p.done
	for i := range p.conns {
		if p.conns[i].fd >= 0 {
			unix.Close(p.conns[i].fd)
		}
	}
	unix.Close(p.epoll)
}
