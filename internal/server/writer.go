package server

import (
	"sync"

	"pubsub/internal/hub"
	"pubsub/internal/park"
)

const (
	// writerBuffer is how many bytes are gathered for one write. What is larger
	// is written from where it lies.
	writerBuffer = 16 << 10
	// writerDeliveries is how many deliveries are taken from the hub at once.
	writerDeliveries = 64
)

// writer gathers a connection's bytes into few writes. A goroutine has one only
// while it writes.
type writer struct {
	deliveries [writerDeliveries]hub.Delivery
	buf        []byte
	out        transport
	ring       *park.Ring // if it is not nil, it writes to parked, which is out
	parked     *park.Conn
	gathered   bool      // the ring may hold something for parked
	err        error     // the first that out returned
	wrote      bool      // since it was last asked
	ids        [1]uint32 // of an MQTT packet's subscription; here, so that it costs no allocation
}

var writers = sync.Pool{New: func() any { return &writer{buf: make([]byte, 0, writerBuffer)} }}

func newWriter(out transport) *writer {
	w := writers.Get().(*writer)
	w.out, w.err = out, nil
	return w
}

// free gives w back; it must not be used any more.
func (w *writer) free() {
	clear(w.deliveries[:])
	if cap(w.buf) > 4*writerBuffer {
		w.buf = make([]byte, 0, writerBuffer)
	}
	w.buf = w.buf[:0]
	w.out, w.ring, w.parked, w.gathered = nil, nil, nil, false
	writers.Put(w)
}

// bytes adds b, which is not changed until flush. With last, nothing follows it
// before the next flush.
func (w *writer) bytes(b []byte, last bool) {
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

// head returns a buffer to which something short is to be appended; it is then
// given to setHead.
func (w *writer) head() []byte {
	if len(w.buf) > writerBuffer*3/4 {
		w.flush()
	}
	return w.buf
}

func (w *writer) setHead(b []byte) { w.buf = b }

// flush writes what was gathered.
func (w *writer) flush() {
	if len(w.buf) > 0 {
		w.write(w.buf)
		w.buf = w.buf[:0]
	}
}

func (w *writer) write(b []byte) {
	if w.err != nil || len(b) == 0 {
		return
	}
	w.wrote = true
	if w.ring != nil {
		w.gathered = true
		_, w.err = w.ring.Write(w.parked, b)
		return
	}
	_, w.err = w.out.Write(b)
}

// settle has written what the ring has gathered, for others, too.
func (w *writer) settle() {
	w.ring.Flush()
	w.gathered = false
}
