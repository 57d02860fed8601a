// Package park holds mostly silent connections at the lowest cost that the platform
// allows. On Linux a parked connection is a descriptor and a small struct, with no
// goroutine, no buffer and no timer. On other systems [New] fails, and the caller must
// hold each connection with a goroutine.
package park

import (
	"errors"
	"net"
	"time"
)

// ErrWouldBlock is returned by a read when no bytes have arrived.
var ErrWouldBlock = errors.New("park: nothing to read")

// Handler receives the events of a parked connection. The lot's goroutines call its
// methods, which must not block.
type Handler interface {
	// Readable is called when bytes, or the end of the stream, can be read. It is not
	// called again before [Conn.Resume].
	Readable()
	// Writable is called when all bytes that Write had kept have been written, or when
	// the connection has become unwritable.
	Writable()
}

// Options are the settings of a lot.
type Options struct {
	// WriteTimeout bounds the time in which a peer acknowledges none of the bytes kept
	// for it. After that the connection is shut down, and the handler reads its end.
	// The real limit may exceed WriteTimeout by an eighth, and by no more than two
	// seconds. 0 means no limit.
	WriteTimeout time.Duration
	// Pollers is the number of goroutines that wait for events, at most 8. Default:
	// GOMAXPROCS.
	Pollers int
	// Opened is called after the lot has duplicated the descriptor of nc and before it
	// closes nc. Closed is called once the duplicate is closed. Either may be nil.
	// Neither may block.
	Opened func(nc net.Conn)
	Closed func()
}
