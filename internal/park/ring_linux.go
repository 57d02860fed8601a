package park

import (
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Ring gathers what is written to many connections, and has the kernel send it all
// in one call, by io_uring. [NewRing] makes one; one goroutine uses it.
//
// Nothing is waited for: a peer that does not take all of it is as much a matter
// of its connection as with [Conn.Write].
type Ring struct {
	// immutable
	fd     int
	queues []byte  // both queues' indices and the completions, shared with the kernel
	sqes   []sqe   // the submissions, likewise
	cqes   []cqe   // in queues
	sqTail *uint32 // likewise
	cqHead *uint32
	cqTail *uint32

	// owned by the goroutine that uses it
	sends []send // since the last Flush, in the order of their submissions
	bytes []byte // of sends; no memory of Go's, which the kernel may not keep
}

// send is what Flush has to do.
type send struct {
	conn *Conn
	fd   int32 // of conn, which does not close it meanwhile
	b    []byte
}

const (
	ringSends = 256       // that one Flush does; a power of two
	ringBytes = 256 << 10 // likewise
	// ringMax is the most that is gathered for one connection. A larger write costs
	// so much that a call for itself does not matter.
	ringMax = 16 << 10
)

// What follows is of the kernel's include/uapi/linux/io_uring.h.
const (
	setupSubmitAll = 1 << 7 // IORING_SETUP_SUBMIT_ALL, since Linux 5.18: older ones refuse it
	enterGetEvents = 1 << 0 // IORING_ENTER_GETEVENTS
	opSend         = 26     // IORING_OP_SEND
	offQueues      = 0      // IORING_OFF_SQ_RING
	offSQEs        = 0x10000000
)

// sqe is struct io_uring_sqe.
type sqe struct {
	opcode   uint8
	flags    uint8
	ioprio   uint16
	fd       int32
	off      uint64
	addr     uint64
	len      uint32
	msgFlags uint32
	userData uint64
	_        [3]uint64
}

// cqe is struct io_uring_cqe.
type cqe struct {
	userData uint64
	res      int32
	flags    uint32
}

// ringParams is struct io_uring_params.
type ringParams struct {
	sqEntries, cqEntries, flags, sqThreadCPU, sqThreadIdle, features, wqFD uint32
	_                                                                      [3]uint32
	sq                                                                     struct {
		head, tail, mask, entries, flags, dropped, array, _ uint32
		_                                                   uint64
	}
	cq struct {
		head, tail, mask, entries, overflow, cqes, flags, _ uint32
		_                                                   uint64
	}
}

// NewRing returns a ring, which ends with [Ring.Close]. It fails where the kernel
// is older than Linux 5.18 or lets this process have none.
func NewRing() (*Ring, error) {
	p := ringParams{flags: setupSubmitAll}
	fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, ringSends, uintptr(unsafe.Pointer(&p)), 0)
	if errno != 0 {
		return nil, os.NewSyscallError("io_uring_setup", errno)
	}
	r := &Ring{fd: int(fd), sends: make([]send, 0, ringSends)}
	if err := r.share(&p); err != nil {
		r.Close()
		return nil, os.NewSyscallError("mmap", err)
	}
	return r, nil
}

// share maps what the kernel shares, and the memory that is sent from.
func (r *Ring) share(p *ringParams) (err error) {
	const access, shared = unix.PROT_READ | unix.PROT_WRITE, unix.MAP_SHARED | unix.MAP_POPULATE
	size := max(p.sq.array+p.sqEntries*4, p.cq.cqes+p.cqEntries*uint32(unsafe.Sizeof(cqe{})))
	if r.queues, err = unix.Mmap(r.fd, offQueues, int(size), access, shared); err != nil {
		return err
	}
	sqes, err := unix.Mmap(r.fd, offSQEs, int(p.sqEntries)*int(unsafe.Sizeof(sqe{})), access, shared)
	if err != nil {
		return err
	}
	r.sqes = unsafe.Slice((*sqe)(unsafe.Pointer(&sqes[0])), p.sqEntries)
	index := func(off uint32) *uint32 { return (*uint32)(unsafe.Pointer(&r.queues[off])) }
	r.sqTail, r.cqHead, r.cqTail = index(p.sq.tail), index(p.cq.head), index(p.cq.tail)
	r.cqes = unsafe.Slice((*cqe)(unsafe.Pointer(&r.queues[p.cq.cqes])), p.cqEntries)
	// Submissions are made in the order in which they lie there.
	for i, order := uint32(0), unsafe.Slice(index(p.sq.array), p.sqEntries); i < p.sqEntries; i++ {
		order[i] = i
	}
	b, err := unix.Mmap(-1, 0, ringBytes, access, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return err
	}
	r.bytes = b[:0]
	return nil
}

// Close gives back what the ring takes. Nothing may be gathered.
func (r *Ring) Close() {
	if r.bytes != nil {
		unix.Munmap(r.bytes[:ringBytes])
	}
	if r.sqes != nil {
		unix.Munmap(unsafe.Slice((*byte)(unsafe.Pointer(&r.sqes[0])), len(r.sqes)*int(unsafe.Sizeof(sqe{}))))
	}
	if r.queues != nil {
		unix.Munmap(r.queues)
	}
	unix.Close(r.fd)
}

// Write is [Conn.Write], but that the next Flush does it, at the latest: an error
// that it meets is returned by the next Write. r keeps no reference to b. Flush
// must come before c.Finish.
func (r *Ring) Write(c *Conn, b []byte) (int, error) {
	if len(r.sends) == ringSends || len(r.bytes)+len(b) > ringBytes {
		r.Flush()
	}
	c.mu.Lock()
	if c.queued {
		// It is one of r's, for one goroutine writes. Two of one connection would not
		// be in order if the first was sent in part.
		c.mu.Unlock()
		r.Flush()
		c.mu.Lock()
	}
	defer c.mu.Unlock()
	if len(b) > ringMax || c.kept != nil || c.fd < 0 || c.broken {
		return c.put(b)
	}
	c.queued = true
	n := len(r.bytes)
	r.bytes = append(r.bytes, b...)
	r.sends = append(r.sends, send{c, c.fd, r.bytes[n:]})
	return len(b), nil
}

// Flush sends what was gathered.
func (r *Ring) Flush() {
	if len(r.sends) == 0 {
		return
	}
	// Only this goroutine moves the tail, and the kernel has taken all before it.
	tail := *r.sqTail
	for i, s := range r.sends {
		r.sqes[(tail+uint32(i))%uint32(len(r.sqes))] = sqe{
			opcode:   opSend,
			fd:       s.fd,
			addr:     uint64(uintptr(unsafe.Pointer(unsafe.SliceData(s.b)))),
			len:      uint32(len(s.b)),
			msgFlags: unix.MSG_DONTWAIT | unix.MSG_NOSIGNAL,
			userData: uint64(i),
		}
	}
	atomic.StoreUint32(r.sqTail, tail+uint32(len(r.sends)))
	submit := len(r.sends)
	for left := len(r.sends); left > 0; left -= r.reap() {
		n, _, errno := unix.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(r.fd), uintptr(submit), uintptr(left), enterGetEvents, 0, 0)
		switch errno {
		case 0:
			submit -= int(n)
		case unix.EINTR, unix.EAGAIN, unix.EBUSY: // it is short of memory, say
		default:
			panic("park: io_uring_enter: " + errno.Error()) // the descriptor is ours, and open
		}
	}
	clear(r.sends)
	r.sends, r.bytes = r.sends[:0], r.bytes[:0]
}

// reap tells the connections what became of their sends, and returns how many are
// done.
func (r *Ring) reap() int {
	head, tail := *r.cqHead, atomic.LoadUint32(r.cqTail)
	for i := head; i != tail; i++ {
		e := &r.cqes[i%uint32(len(r.cqes))]
		s := &r.sends[e.userData]
		s.conn.sent(s.fd, s.b, e.res)
	}
	atomic.StoreUint32(r.cqHead, tail)
	return int(tail - head)
}

// sent says what became of b, which a ring sent over fd: res is how much of it was
// taken, or less than 0, an error.
func (c *Conn) sent(fd int32, b []byte, res int32) {
	c.mu.Lock()
	c.queued = false
	failed := false
	switch err := unix.Errno(max(0, -res)); {
	case c.fd < 0: // Close left it to us
		c.release(fd)
	case err != 0 && err != unix.EAGAIN && err != unix.EINTR:
		failed = true
		c.broken, c.kept = true, nil
	case int(res) < len(b) || c.kept != nil:
		kept := append([]byte(nil), b[max(0, res):]...)
		if c.kept != nil {
			kept = append(kept, *c.kept...)
		}
		c.keep(kept)
	}
	c.mu.Unlock()
	if failed {
		c.handler.Writable()
	}
}
