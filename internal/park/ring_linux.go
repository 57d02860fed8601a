package park

import (
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Ring collects writes to many connections and sends them all in one system call, by
// io_uring. [NewRing] makes one. Only one goroutine may use it.
//
// A ring does not wait for peers. Bytes that a peer does not take at once are kept by its
// connection, as with [Conn.Write].
type Ring struct {
	// immutable
	fd     int
	queues []byte // shared with the kernel: the indices of both queues, and the completions
	sqes   []sqe  // shared with the kernel: the submissions
	cqes   []cqe  // in queues, like the indices below
	sqTail *uint32
	cqHead *uint32
	cqTail *uint32

	// owned by the goroutine that uses the ring
	sends []send // since the last Flush, in the order of their submissions
	bytes []byte // the bytes of sends, in memory that the Go runtime does not manage
}

// send is one write that the next Flush submits.
type send struct {
	conn *Conn
	fd   int32 // the descriptor of conn, which stays open until sent is called
	b    []byte
}

const (
	ringSends = 256       // the most writes in one Flush; a power of two
	ringBytes = 256 << 10 // the most bytes in one Flush
	// ringMax is the length of the longest write that is collected. Beyond it, the cost of
	// a system call of its own does not matter.
	ringMax = 16 << 10
)

// These values and types are those of the kernel's include/uapi/linux/io_uring.h.
const (
	setupSubmitAll = 1 << 7 // IORING_SETUP_SUBMIT_ALL; kernels before Linux 5.18 refuse it
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

// NewRing returns a ring, which the caller must close. It fails if the kernel is older
// than Linux 5.18 or does not allow io_uring for this process.
func NewRing() (*Ring, error) {
	p := ringParams{flags: setupSubmitAll}
	fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, ringSends, uintptr(unsafe.Pointer(&p)), 0)
	if errno != 0 {
		return nil, os.NewSyscallError("io_uring_setup", errno)
	}
	r := &Ring{fd: int(fd), sends: make([]send, 0, ringSends)}
	if err := r.mmap(&p); err != nil {
		r.Close()
		return nil, os.NewSyscallError("mmap", err)
	}
	return r, nil
}

// mmap maps the queues, which the kernel shares, and the memory for the bytes to send.
func (r *Ring) mmap(p *ringParams) (err error) {
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
	// The kernel takes submissions in the order of sqes.
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

// Close releases the ring's descriptor and memory. It must not be called between Write
// and Flush.
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

// Write is like [Conn.Write], but b is sent by the next Flush at the latest, and an error
// of that is returned by the next Write to c. r keeps no reference to b. The caller must
// call Flush before c.Finish.
func (r *Ring) Write(c *Conn, b []byte) (int, error) {
	if len(r.sends) == ringSends || len(r.bytes)+len(b) > ringBytes {
		r.Flush()
	}
	c.mu.Lock()
	if c.queued {
		// c's earlier write is in r, because only one goroutine writes. Two writes of one
		// connection would get out of order if only a part of the first were sent.
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

// Flush sends the collected writes.
func (r *Ring) Flush() {
	if len(r.sends) == 0 {
		return
	}
	// Only this goroutine moves the tail, and the kernel has consumed everything before it.
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
		case unix.EINTR, unix.EAGAIN, unix.EBUSY: // for example, short of memory
		default:
			panic("park: io_uring_enter: " + errno.Error()) // the descriptor is ours, and open
		}
	}
	clear(r.sends)
	r.sends, r.bytes = r.sends[:0], r.bytes[:0]
}

// reap reports the completed sends to their connections and returns their number.
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

// sent handles the result of sending b over fd by a ring: res is the number of bytes
// sent, or a negative errno.
func (c *Conn) sent(fd int32, b []byte, res int32) {
	c.mu.Lock()
	c.queued = false
	failed := false
	switch err := unix.Errno(max(0, -res)); {
	case c.fd < 0: // Close left the descriptor to the ring
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
