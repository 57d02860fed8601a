// Package conn holds the connections of subscribers: it writes the deliveries of the hub,
// keeps the timers, and ends the connections. It knows neither HTTP nor MQTT. A [Protocol]
// encodes messages and chooses the last bytes for a client.
//
// A connection has one of two holders. A parked connection has no goroutine: its shard's
// goroutine writes to a raw descriptor, and package park reports input and the end. A
// portable connection has two goroutines: the caller's reads from the client, and another
// one writes. The second exists only while there are bytes to write.
//
// # States
//
//	         Init                  SendLast             all is written
//	(zero) ────────▶ open ──────────────────▶ ending ──────────────────▶ finished
//	                  │                         │                           │
//	                  │ Close                   │ Close, LastWords over     │ Close, LastWords over
//	                  ▼                         ▼                           ▼
//	               closed ◀─────────────────────┴───────────────────────────┘
//
// Registration and the start (StartGoroutines, or Park and StartParked) are independent of
// these states: bytes wait until the start, and a connection can end before it. If Register
// fails, the caller closes the connection. Otherwise it starts the connection or calls
// HijackFailed.
//
// # Ends
//
// There are three verbs for ending a connection:
//
//   - End asks the protocol to end it for a [Reason] of the server's: a drain, a revoked
//     key, an expired token. The protocol calls SendLast with the reason, at once or when
//     the client's publishes are acknowledged. The registry and the protocol call End.
//   - finish closes the sending side once the last bytes are written, so that the client
//     reads them and then closes its side. Only the writer calls finish.
//   - Close closes it at once, in any state, and releases everything. Any goroutine may
//     call Close: the reader when the client has gone, the writer when a write has failed,
//     the deadline when Options.LastWords is over, the registry at the end of a drain, the
//     hub when the store could not be read.
//
// Close calls Protocol.Closed, once. That may wait for the store, so the shard's goroutine
// leaves Close to another goroutine.
package conn

import (
	"sync"
	"sync/atomic"
	"time"
	"unique"

	"pubsub/internal/hub"
	"pubsub/internal/park"
)

// Conn is the connection of one subscriber. The zero value is ready for Init. A Conn is
// usually embedded in its [Protocol].
type Conn struct {
	// immutable after Init
	registry *Registry
	proto    Protocol
	portable *portable // nil for a parked connection

	// These guard their fields themselves.
	Subscriber hub.Subscriber // the connection's place in the hub
	descriptor park.Conn      // of a parked connection

	// guarded by registry.mu
	kid   unique.Handle[string] // the key that admitted the client; zero for the admin token
	index int32                 // in registry.conns, or -1

	// guarded by mu
	state   state
	begun   bool // writes may begin
	serving bool // input of the client is being served

	wrote atomic.Int64 // a monoTime: when something was last written; 0 before the start

	mu sync.Mutex
	// guarded by mu
	control []byte     // written before anything else
	room    *sync.Cond // control has been written, or nothing more will be; nil until WaitRoom waits
	due     monoTime   // of the next Protocol.Tick, zero during that call; once ending, of the close
	slot    Slot       // within the limits on connections
}

// portable holds the fields that only a connection with goroutines needs.
type portable struct {
	out     Transport     // immutable after the start
	serve   func()        // portableHolder.serve, so that starting it allocates nothing
	writing sync.Mutex    // held by the goroutine that writes
	done    chan struct{} // closed when the connection is
}

// state is the stage of a connection; see the package comment.
type state uint8

const (
	stateOpen     state = iota
	stateEnding         // the bytes in control are the last ones
	stateFinished       // they have been written, and the client must close
	stateClosed
)

// Protocol is the protocol of one connection.
type Protocol interface {
	// Encode adds d to w. With last, nothing follows in this piece. The goroutine that
	// writes calls it.
	Encode(w *Writer, d *hub.Delivery, now time.Time, last bool)
	// MaxHead returns how many bytes a delivery takes at most beside its shared encoding.
	MaxHead() int
	// Tick does the work that is due at now, such as sending a keep-alive if nothing has
	// been written since wrote. It returns the latest time of the next call. It is called
	// by the shard's goroutine, even while the client takes nothing, and must not block.
	Tick(now, wrote time.Time) (next time.Time)
	// Readable is called when the client of a parked connection has sent something or has
	// gone, and not again before [Conn.AwaitInput]. A poller calls it; it must not block.
	Readable()
	// End ends the connection for a reason of the server's; see the package comment.
	End(why Reason)
	// Closed is called once, after the connection is closed. It may block.
	Closed()
	// Name returns the name of the transport for Options.Connected.
	Name() string
}

// Reason is why the server ends a connection.
type Reason uint8

// The reasons.
const (
	Draining Reason = iota
	KeyRevoked
	TokenExpired
)

// Init makes c a subscriber of the hub, with a slot that it releases when it is closed.
// The caller may subscribe c.Subscriber to topics; deliveries wait for the start.
// parked reports whether c will be parked.
func (c *Conn) Init(r *Registry, p Protocol, slot Slot, parked bool) {
	c.registry, c.proto, c.slot, c.index = r, p, slot, -1
	if parked {
		r.o.Hub.Add(&c.Subscriber, (*parkedHolder)(c), "")
		return
	}
	h := (*portableHolder)(c)
	c.portable = &portable{serve: h.serve, done: make(chan struct{})}
	r.o.Hub.Add(&c.Subscriber, h, "")
}

// Parked reports whether c is parked, or will be.
func (c *Conn) Parked() bool { return c.portable == nil }

// Protocol returns the protocol that was passed to Init.
func (c *Conn) Protocol() Protocol { return c.proto }

// out returns the transport of c, which has started.
func (c *Conn) out() Transport {
	if c.Parked() {
		return &c.descriptor
	}
	return c.portable.out
}

// Register adds c to the registry, which may end it from then on. It reports whether it did:
// it does not while the node drains.
func (c *Conn) Register() (ok bool) { return c.registry.add(c) }

// SetKey records the key that admitted the client, so that [Registry.EndKey] ends c. The
// caller must check afterwards whether the key was revoked before SetKey.
func (c *Conn) SetKey(kid string) {
	c.registry.mu.Lock()
	defer c.registry.mu.Unlock()
	c.kid = unique.Make(kid)
}

// start makes c write: first, then everything else.
func (c *Conn) start(first []byte) {
	now := c.registry.o.Now()
	c.mu.Lock()
	c.begun = true
	if c.state != stateClosed {
		c.control = append(first, c.control...)
	} else {
		c.out().Close()
	}
	c.mu.Unlock()
	c.registry.o.Connected(c.proto.Name())
	next := c.proto.Tick(now, now)
	c.wrote.Store(int64(c.registry.mono(now))) // c has started
	c.DueBy(next)
}

func (c *Conn) started() bool { return c.wrote.Load() != 0 }

// HijackFailed closes c, which was registered, because its connection could not be
// hijacked or parked.
func (c *Conn) HijackFailed(err error) {
	c.registry.o.Failed("hijack failed", err)
	c.registry.o.Connected(c.proto.Name())
	c.Close()
	if !c.Parked() {
		c.Wait()
	}
}

// SetSlot gives c another slot and releases the one before.
func (c *Conn) SetSlot(slot Slot) {
	c.mu.Lock()
	if c.state != stateClosed {
		c.slot, slot = slot, c.slot
	}
	c.mu.Unlock()
	slot.Release()
}

// SwapSlots exchanges the slots of c and old, unless either is closed. It reports whether it
// did. c must not be an argument of another call of SwapSlots meanwhile.
func (c *Conn) SwapSlots(old *Conn) (ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	old.mu.Lock()
	defer old.mu.Unlock()
	if c.state == stateClosed || old.state == stateClosed {
		return false
	}
	c.slot, old.slot = old.slot, c.slot
	return true
}

// SetServing records whether input of the client is being served.
func (c *Conn) SetServing(serving bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.serving = serving
}

// HasInput reports whether the client has sent bytes that are being served, or that have
// not been read.
func (c *Conn) HasInput() bool {
	c.mu.Lock()
	serving := c.serving
	c.mu.Unlock()
	return serving || c.out().Unread()
}

// IsClosed reports whether c is closed.
func (c *Conn) IsClosed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state == stateClosed
}
