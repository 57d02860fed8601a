package conn

import (
	"pubsub/internal/hub"
	"pubsub/internal/park"
)

// serve writes until there is nothing left to write, through ring if it is not nil. If c
// has ended, serve only puts the subscriber to sleep.
func (c *Conn) serve(ring *park.Ring) {
	w := newWriter(c.out())
	if ring != nil {
		w.ring, w.descriptor = ring, &c.descriptor
	}
	defer w.free()
	for !c.blocked() {
		now := c.registry.o.Now()
		control, state := c.takeControl()
		w.Add(control, false)
		var ds []hub.Delivery
		asleep := false
		if state != stateEnding && len(control) < maxWithPiece {
			ds, asleep = c.Subscriber.Read(w.deliveries[:0], c.proto.MaxHead(), now)
			if len(ds) > 0 {
				// A SUBACK may have been sent since, and its subscription resumed: it must
				// come before the messages.
				w.Add(c.takeMoreControl(), false)
			}
		}
		if state == stateOpen {
			for i := range ds {
				c.proto.Encode(w, &ds[i], now, i == len(ds)-1)
			}
		}
		clear(ds) // otherwise a write that waits would keep them in memory
		w.flush()
		if w.wrote {
			c.wrote.Store(int64(c.registry.mono(now)))
			w.wrote = false
		}
		switch {
		case w.err != nil:
			c.writeFailed()
			w.err = nil
		case c.blocked():
			return
		case w.gathered && state == stateEnding:
			w.flushRing() // and look whether the client has taken all
		case state == stateEnding:
			c.finish()
		case asleep:
			return
		}
	}
}

// blocked reports whether the client must first take bytes that were written earlier. When it
// has, [parkedHolder.Writable] is called.
func (c *Conn) blocked() bool { return c.Parked() && c.descriptor.Blocked() }
