package park

import (
	"context"
	"fmt"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Lot holds parked connections. [New] makes one; [Lot.Run] must be running.
type Lot struct {
	// immutable
	opts    Options
	pollers []*poller

	next atomic.Uint32 // counts connections, to assign pollers round-robin
}

// poller waits for the events of its share of the connections.
type poller struct {
	// immutable
	epoll int
	waker int // an eventfd; a write to it ends epoll_wait
	opts  *Options
	began time.Time // the monotonic time from which deadlines count

	checked []*Conn // owned by the poller's goroutine: scratch of check

	mu sync.Mutex
	// guarded by mu
	slots []slot // indexed by the slot number in a connection's events
	free  []uint32
	// due holds the connections that will be shut down unless their peer acknowledges
	// some bytes, with the number of unacknowledged bytes at the last check.
	due map[*Conn]int
}

// slot maps the events of a connection to the connection. Its turn distinguishes the
// connection from earlier ones with the same slot.
type slot struct {
	conn *Conn
	turn uint32
}

// wakerEvent is the slot number in the waker's events. No connection has it.
const wakerEvent = ^uint32(0)

// New returns a lot. It fails if the system refuses an epoll instance or an eventfd.
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

// Run serves the lot until ctx is done. All connections must be closed before it
// returns, because their descriptors leak otherwise. It must be called once.
func (l *Lot) Run(ctx context.Context) {
	var wg sync.WaitGroup
	for _, p := range l.pollers {
		wg.Go(func() { p.run(ctx) })
		wg.Go(func() {
			<-ctx.Done()
			p.wake() // before l.close, after which the waker's number may be in use elsewhere
		})
	}
	wg.Wait()
	l.close()
}

func (p *poller) wake() {
	one := [8]byte{1}
	unix.Write(p.waker, one[:])
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
				c.handleEvents(events[i].Events)
			}
		}
		if n > 0 {
			// Otherwise the goroutines that were just woken stay in the run queue of this
			// processor, which is about to block in epoll_wait, until the runtime retakes it.
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
