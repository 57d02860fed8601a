package server

import (
	"sync"
	"sync/atomic"
	"time"
	"unique"

	"pubsub/internal/hub"
	"pubsub/internal/park"
)

// conn is a subscriber's connection in the hands of the portable holder: one
// goroutine waits for what the client sends, or for its going, and another one
// writes, which exists only while there is something to write.
type conn struct {
	// immutable once the connection has started
	s        *Server
	proto    protocol
	portable *portable // nil if it is parked, or is going to be

	// They mind their fields themselves.
	member hub.Subscriber
	parked park.Conn

	// guarded by registry.mu
	kid unique.Handle[string] // the key that admitted it; zero if none did
	at  int32                 // in registry.conns

	started atomic.Bool
	wrote   atomic.Int64 // an instant: when something was last written

	mu sync.Mutex
	// guarded by mu
	control []byte     // to be written before anything else
	room    *sync.Cond // control has been written, or nothing more will be; nil until somebody waits
	due     instant    // of the next call of proto.tick, zero during that call; once ending, of the close
	place   *share     // its place among the connections
	state   connState
	begun   bool // writes may begin
	full    bool // waitRoom waits

	// serving is set while input of the client is being served.
	serving atomic.Bool
}

// portable is what a connection needs that goroutines serve.
type portable struct {
	out     transport     // immutable once the connection has started
	serve   func()        // conn.serveAlone, so that starting it allocates nothing
	writing sync.Mutex    // held by the goroutine that writes
	done    chan struct{} // closed when the connection is
}

// connState says how far a connection has come.
type connState uint8

const (
	connOpen     connState = iota
	connEnding             // what is in control is the last that is written
	connFinished           // that has been written; the client is to close
	connClosed
)

// protocol is what a connection speaks.
type protocol interface {
	// encode adds d to w; last says that nothing follows in this piece. It is
	// called by the goroutine that writes.
	encode(w *writer, d *hub.Delivery, now time.Time, last bool)
	// head is how many bytes at most a delivery takes beside its shared encoding.
	head() int
	// tick does the work that is due at now, such as sending a keep-alive if nothing has
	// been written since wrote. It returns the latest time of the next call. It is called
	// by the shard's goroutine, also while the client takes nothing, and must not block.
	tick(now, wrote time.Time) (next time.Time)
	// end ends the connection for a reason that is the server's, with whatever
	// the client is to be told.
	end(why endReason)
	// gone is called once, when the connection has been closed.
	gone()
	// transport is the name that Events has for it.
	transport() string
}

// endReason says why the server ends a connection.
type endReason string

const (
	endDrain   endReason = "drain"
	endRevoked endReason = "token revoked"
	endExpired endReason = "token expired"
)

// init makes c a connection that has its place and is not started. Its member
// can subscribe; what it is given before start waits for it.
func (c *conn) init(s *Server, p protocol, place *share) { c.s, c.proto, c.place = s, p, place }

// served reports whether the shard's goroutine writes for c.
func (c *conn) served() bool { return c.portable == nil }

// out is what c, which was started, writes to.
func (c *conn) out() transport {
	if c.served() {
		return &c.parked
	}
	return c.portable.out
}

// join makes c a member of the hub. With park it is going to be parked.
func (c *conn) join(park bool) {
	if park {
		c.s.o.Hub.Add(&c.member, (*parkedHolder)(c), "")
		return
	}
	c.portable = &portable{serve: c.serveAlone, done: make(chan struct{})}
	c.s.o.Hub.Add(&c.member, c, "")
}

// register makes c known to whoever may end it; false if the server drains. Once
// registered it must be started, and waited for.
func (c *conn) register() bool { return c.s.registry.add(c) }

// startAlone lets c, which goroutines serve, write to out: first, then everything
// else.
func (c *conn) startAlone(out transport, first []byte) {
	if t, ok := out.(netTransport); ok {
		// A client may take nothing though every Write succeeds, as long as the kernel
		// has room. Over HTTP/2 such a client does not answer pings.
		park.SetUserTimeout(t.Conn, c.s.o.WriteTimeout)
	}
	c.portable.out = out
	c.member.MarkAwake() // otherwise Wake could start a second goroutine, which would only wait
	c.start(first)
	go c.portable.serve()
}

// start lets c write: first, then everything else.
func (c *conn) start(first []byte) {
	now := c.s.o.Now()
	c.wrote.Store(int64(c.s.instant(now)))
	c.mu.Lock()
	c.begun = true
	if c.state != connClosed {
		c.control = append(first, c.control...)
	} else {
		c.out().Close()
	}
	c.mu.Unlock()
	c.s.o.Events.Connected(c.proto.transport())
	c.dueBy(c.proto.tick(now, now))
	c.started.Store(true)
}

// lost ends a connection that was registered and could not be taken over from
// net/http: it is lost already, or net/http has changed its ways.
func (c *conn) lost(err error) {
	c.s.o.Events.Failed("hijack failed", err)
	c.s.o.Events.Connected(c.proto.transport())
	c.close()
	if !c.served() {
		c.wait()
	}
}

// abandon ends a connection that is not registered.
func (c *conn) abandon() {
	c.member.Close()
	c.s.release(c.place)
}

// replace gives c another place among the connections.
func (c *conn) replace(place *share) {
	c.mu.Lock()
	if c.state != connClosed {
		c.place, place = place, c.place
	}
	c.mu.Unlock()
	c.s.release(place)
}

// exchange gives c the place of old, and old that of c; false if either has been
// closed. It is for a c that nobody has exchanged with.
func (c *conn) exchange(old *conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	old.mu.Lock()
	defer old.mu.Unlock()
	if c.state == connClosed || old.state == connClosed {
		return false
	}
	c.place, old.place = old.place, c.place
	return true
}

// dueBy has proto.tick called at t, unless it is called sooner.
func (c *conn) dueBy(t time.Time) {
	if t.IsZero() {
		return
	}
	at := c.s.instant(t)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state != connOpen || c.due != 0 && at >= c.due {
		return
	}
	c.due = at
	// With mu held, so that the last call sets the soonest deadline.
	c.member.SetDeadline(c.s.time(at))
}

// Wake starts the goroutine that writes; see [hub.Holder]. Before start, which
// does the same, there is nothing to write to.
func (c *conn) Wake() {
	if c.started.Load() {
		go c.portable.serve()
	}
}

// StoreFailed ends the connection, because the client believes that it is subscribed. It will
// reconnect and get what it was promised.
func (c *conn) StoreFailed(err error) {
	c.s.o.Events.Failed("retained message read failed", err)
	go c.close() // a will may have to be stored
}

// serveAlone is serve in a goroutine of the connection's own.
func (c *conn) serveAlone() {
	c.portable.writing.Lock()
	defer c.portable.writing.Unlock()
	c.serve(nil)
}

// serve writes until there is nothing left to write, by ring if that is not nil. Of
// a connection that has ended it only puts the member to sleep.
func (c *conn) serve(ring *park.Ring) {
	w := newWriter(c.out())
	if ring != nil {
		w.ring, w.parked = ring, &c.parked
	}
	defer w.free()
	for !c.blocked() {
		now := c.s.o.Now()
		control, state := c.takeControl()
		w.bytes(control, false)
		var ds []hub.Delivery
		asleep := false
		if state != connEnding && len(control) < maxWithPiece {
			ds, asleep = c.member.Read(w.deliveries[:0], c.proto.head(), now)
		}
		if state == connOpen {
			for i := range ds {
				c.proto.encode(w, &ds[i], now, i == len(ds)-1)
			}
		}
		clear(ds) // otherwise a write that waits would keep them in memory
		w.flush()
		if w.wrote {
			c.wrote.Store(int64(c.s.instant(now)))
			w.wrote = false
		}
		switch {
		case w.err != nil:
			c.giveUp()
			w.err = nil
		case c.blocked():
			return
		case w.gathered && state == connEnding:
			w.settle() // and see whether all was taken
		case state == connEnding:
			c.finish()
		case asleep:
			return
		}
	}
}

// DeadlineReached handles the deadline; see [hub.Holder]. A connection that the server has ended is
// closed now, even if the client has not taken all of its last words.
func (c *conn) DeadlineReached() {
	now := c.s.o.Now()
	c.mu.Lock()
	state, due := c.state, c.due
	early := due != 0 && c.s.instant(now) < due
	switch {
	case early:
		c.member.SetDeadline(c.s.time(due)) // the deadline has come by another clock
	case state == connOpen:
		c.due = 0
	}
	c.mu.Unlock()
	switch {
	case early || due == 0 || state == connClosed:
	case state == connOpen:
		c.dueBy(c.proto.tick(now, c.s.time(instant(c.wrote.Load()))))
	default:
		go c.close() // whoever ends the connection may have to wait
	}
}

// sendKeepAlive queues b, which must not be changed, unless something else waits to be
// written.
func (c *conn) sendKeepAlive(b []byte) {
	c.mu.Lock()
	idle := c.state == connOpen && len(c.control) == 0
	if idle {
		c.control = b[:len(b):len(b)]
	}
	c.mu.Unlock()
	if idle {
		c.member.Notify()
	}
}

// takeControl takes what is to be written before anything else.
func (c *conn) takeControl() ([]byte, connState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	b := c.control
	c.control = nil
	if len(b) > 0 {
		c.makeRoom()
	}
	return b, c.state
}

// send has b written before anything else; c keeps no reference to it. With last
// nothing follows, and the connection ends, after [Options.LastWords] at the latest.
func (c *conn) send(b []byte, last bool) {
	c.mu.Lock()
	if c.state == connOpen {
		c.control = append(c.control, b...)
		if last {
			c.state = connEnding
			end := c.s.o.Now().Add(c.s.o.LastWords)
			c.due = c.s.instant(end)
			c.member.SetDeadline(end)
			c.makeRoom() // nobody needs to wait any more
		}
	}
	c.mu.Unlock()
	c.member.Notify()
}

// maxWithPiece is how many control bytes are written together with messages. More of them
// are written first, to see whether the client takes them.
const maxWithPiece = 1 << 10

// maxControl is how many bytes of control a client may leave unread before
// nothing more is read from it.
const maxControl = 16 << 10

// waitRoom returns when what is to be written first has become less; false if
// nothing will be written any more. Whoever serves requests of the client calls
// it before each, so that a client that does not read is not served.
func (c *conn) waitRoom() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.control) > maxControl && c.state == connOpen {
		c.full = true
		if c.room == nil {
			c.room = sync.NewCond(&c.mu)
		}
		c.room.Wait()
	}
	c.full = false
	return c.state == connOpen
}

// isFull reports whether the server has stopped serving the client because it does not
// read.
func (c *conn) isFull() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.full
}

// makeRoom wakes whoever waits for room; mu is held.
func (c *conn) makeRoom() {
	if c.room != nil {
		c.room.Broadcast()
	}
}

// finish ends the connection from this side.
func (c *conn) finish() {
	c.mu.Lock()
	if c.state == connEnding {
		c.state = connFinished
	}
	c.makeRoom()
	c.mu.Unlock()
	c.out().Finish()
}

// close ends the connection at once.
func (c *conn) close() {
	c.mu.Lock()
	if c.state == connClosed {
		c.mu.Unlock()
		return
	}
	c.state = connClosed
	c.control = nil
	c.makeRoom()
	begun, place := c.begun, c.place
	c.mu.Unlock()
	if begun {
		c.out().Close()
	}
	c.member.Close()
	c.proto.gone()
	c.s.release(place)
	c.s.registry.remove(c)
	if c.served() {
		c.ended() // nobody waits for it
	} else {
		close(c.portable.done)
	}
}

// ended is the last that happens to a connection that was started.
func (c *conn) ended() {
	c.s.o.Events.Disconnected(c.proto.transport())
	c.s.registry.goroutines.Done()
}

// wait returns when c, which was started, is closed and nobody writes any more.
func (c *conn) wait() {
	<-c.portable.done
	c.portable.writing.Lock()
	defer c.portable.writing.Unlock()
	c.ended()
}
