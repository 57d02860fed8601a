// Package park holds connections that are mostly silent at the lowest cost that
// the platform allows: on Linux a descriptor and a small struct each, with no
// goroutine, no buffer and no timer. On other systems there is no lot, and a
// connection costs a goroutine.
package park

import (
	"errors"
	"net"
	"time"
)

// ErrWouldBlock says that there is nothing to be read now.
var ErrWouldBlock = errors.New("park: nothing to read")

// Handler is told what happens to a parked connection. The calls come from the
// lot's goroutines and must not block.
type Handler interface {
	// Readable says that bytes, or the end, can be read. It is not called again
	// before [Conn.Resume].
	Readable()
	// Writable says that everything that Write had kept has been written, or that
	// the connection cannot be written to any more.
	Writable()
}

// Options are the settings of a lot.
type Options struct {
	// WriteTimeout is how long a peer may acknowledge none of the bytes that are kept for
	// it before the connection is closed; the handler then reads its end. 0 means for
	// ever. It may be longer by an eighth, and by no more than two seconds.
	WriteTimeout time.Duration
	// Pollers is how many goroutines wait for events, eight at most. Default:
	// GOMAXPROCS.
	Pollers int
	// Opened is called when the lot has a descriptor of its own for nc, which it closes
	// next. Closed is called once that descriptor is closed. Either may be nil. They must
	// not block.
	Opened func(nc net.Conn)
	Closed func()
}
