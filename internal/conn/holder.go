package conn

import (
	"net"

	"pubsub/internal/hub"
	"pubsub/internal/park"
)

// portableHolder is a Conn served by goroutines; see [hub.Holder].
type portableHolder Conn

// Wake starts the goroutine that writes. Before the start, which does the same, there is
// nothing to write to.
func (h *portableHolder) Wake() {
	if (*Conn)(h).started() {
		go h.portable.serve()
	}
}

// StoreFailed closes the connection.
func (h *portableHolder) StoreFailed(err error) { (*Conn)(h).hubFailed(err) }

// DeadlineReached handles the deadline.
func (h *portableHolder) DeadlineReached() { (*Conn)(h).handleDeadline() }

func (h *portableHolder) serve() {
	h.portable.writing.Lock()
	defer h.portable.writing.Unlock()
	(*Conn)(h).serve(nil)
}

// parkedHolder is a Conn served by its shard's goroutine; see [hub.ShardHolder]. It also
// handles the events of the parked descriptor; see [park.Handler].
type parkedHolder Conn

// Wake is not called.
func (h *parkedHolder) Wake() {}

// StoreFailed closes the connection.
func (h *parkedHolder) StoreFailed(err error) { (*Conn)(h).hubFailed(err) }

// DeadlineReached handles the deadline.
func (h *parkedHolder) DeadlineReached() { (*Conn)(h).handleDeadline() }

// Serve writes messages and control bytes.
func (h *parkedHolder) Serve(o hub.Outbox) {
	if (*Conn)(h).started() {
		ring, _ := o.(*park.Ring)
		(*Conn)(h).serve(ring)
	}
}

// Readable passes the event to the protocol.
func (h *parkedHolder) Readable() { h.proto.Readable() }

// Writable makes the shard serve the connection again.
func (h *parkedHolder) Writable() { h.Subscriber.Schedule() }

// hubFailed closes c, because the client believes that it is subscribed. It will reconnect
// and get the messages that it was promised.
func (c *Conn) hubFailed(err error) {
	c.registry.o.Failed("retained message read failed", err)
	go c.Close() // a will may have to be stored
}

// StartGoroutines makes c, which is portable, write to out: first, then everything else.
// The caller reads from the client, and calls Close and Wait when the client has gone.
func (c *Conn) StartGoroutines(out Transport, first []byte) {
	if t, ok := out.(NetTransport); ok {
		// A client may take nothing though every Write succeeds, as long as the kernel
		// has room. Over HTTP/2 such a client does not answer pings.
		park.SetUserTimeout(t.Conn, c.registry.o.WriteTimeout)
	}
	c.portable.out = out
	c.Subscriber.MarkAwake() // otherwise Wake could start a second goroutine, which would only wait
	c.start(first)
	go c.portable.serve()
}

// Park parks nc and returns the bytes that had been read from it. StartParked must follow,
// or HijackFailed after an error.
func (c *Conn) Park(nc net.Conn) (early []byte, err error) {
	return c.registry.o.Lot.Park(&c.descriptor, nc, (*parkedHolder)(c))
}

// StartParked makes c write after Park: first, then everything else.
func (c *Conn) StartParked(first []byte) {
	c.start(first)
	c.Subscriber.Schedule()
}

// ReadParked reads from the client of a parked connection. The error is
// [park.ErrWouldBlock] if there is nothing to read.
func (c *Conn) ReadParked(b []byte) (n int, err error) { return c.descriptor.Read(b) }

// AwaitInput makes Protocol.Readable be called once there is something to read again.
func (c *Conn) AwaitInput() { c.descriptor.Resume() }
