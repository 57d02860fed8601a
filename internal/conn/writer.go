package conn

import (
	"sync"

	"pubsub/internal/hub"
	"pubsub/internal/park"
)

const (
	// writerBuffer is how many bytes are gathered for one write. A longer piece is written
	// without being copied.
	writerBuffer = 16 << 10
	// writerDeliveries is how many deliveries are taken from the hub at once.
	writerDeliveries = 64
)

// Writer gathers a connection's bytes into few writes. A goroutine has one only while it
// writes.
type Writer struct {
	// Scratch is for [Protocol].Encode, so that one number costs no allocation. It is
	// used up before the next call.
	Scratch [1]uint32

	deliveries [writerDeliveries]hub.Delivery
	buf        []byte
	out        Transport
	ring       *park.Ring // if not nil, it writes to descriptor, which is out
	descriptor *park.Conn
	gathered   bool  // the ring may hold bytes for descriptor
	err        error // the first that out returned
	wrote      bool  // something was written since serve last reset it
}

var writers = sync.Pool{New: func() any { return &Writer{buf: make([]byte, 0, writerBuffer)} }}

func newWriter(out Transport) *Writer {
	w := writers.Get().(*Writer)
	w.out, w.err = out, nil
	return w
}

// free returns w to the pool; it must not be used any more.
func (w *Writer) free() {
	clear(w.deliveries[:])
	if cap(w.buf) > 4*writerBuffer {
		w.buf = make([]byte, 0, writerBuffer)
	}
	w.buf = w.buf[:0]
	w.out, w.ring, w.descriptor, w.gathered = nil, nil, nil, false
	writers.Put(w)
}

// Add adds b, which must not be changed before the next flush. With last, nothing follows
// b before that.
func (w *Writer) Add(b []byte, last bool) {
	switch {
	case len(w.buf) == 0 && last, len(b) > writerBuffer:
		w.flush()
		w.write(b)
	default:
		if len(w.buf)+len(b) > writerBuffer {
			w.flush()
		}
		w.buf = append(w.buf, b...)
	}
}

// Head returns a buffer to which the caller may append a few bytes; SetHead must follow.
func (w *Writer) Head() []byte {
	if len(w.buf) > writerBuffer*3/4 {
		w.flush()
	}
	return w.buf
}

// SetHead takes back the buffer of Head with the appended bytes.
func (w *Writer) SetHead(b []byte) { w.buf = b }

// flush writes the gathered bytes.
func (w *Writer) flush() {
	if len(w.buf) > 0 {
		w.write(w.buf)
		w.buf = w.buf[:0]
	}
}

func (w *Writer) write(b []byte) {
	if w.err != nil || len(b) == 0 {
		return
	}
	w.wrote = true
	if w.ring != nil {
		w.gathered = true
		_, w.err = w.ring.Write(w.descriptor, b)
		return
	}
	_, w.err = w.out.Write(b)
}

// flushRing makes the ring send the gathered bytes of all its connections.
func (w *Writer) flushRing() {
	w.ring.Flush()
	w.gathered = false
}
