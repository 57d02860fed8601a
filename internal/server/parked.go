package server

import (
	"errors"
	"net"
	"net/http"

	"pubsub/internal/hub"
	"pubsub/internal/park"
)

// parkedHolder is a conn in the hands of its shard's goroutine; see
// [hub.ShardHolder].
type parkedHolder conn

// Wake is not called.
func (c *parkedHolder) Wake() {}

// StoreFailed ends the connection.
func (c *parkedHolder) StoreFailed(err error) { (*conn)(c).StoreFailed(err) }

// DeadlineReached handles the deadline.
func (c *parkedHolder) DeadlineReached() { (*conn)(c).DeadlineReached() }

// Serve writes what there is to write.
func (c *parkedHolder) Serve(o hub.Outbox) {
	if (*conn)(c).started.Load() {
		ring, _ := o.(*park.Ring)
		(*conn)(c).serve(ring)
	}
}

// blocked reports whether the connection takes no more for now. When it does,
// its member is run.
func (c *conn) blocked() bool { return c.served() && c.parked.Blocked() }

// giveUp closes the connection, with what the client did not take.
func (c *conn) giveUp() {
	if !c.served() {
		c.close()
		return
	}
	// A will may have to be stored, and the shard's goroutine does not wait.
	go c.close()
}

// mayPark reports whether the connection of r can be parked: whoever ends TLS, or
// carries many streams, stays with net/http.
func (s *Server) mayPark(r *http.Request) bool {
	return s.o.Lot != nil && r.TLS == nil && r.ProtoMajor == 1
}

// hijack takes the connection over from net/http, and returns what it had read of
// it already.
func hijack(w http.ResponseWriter) (net.Conn, []byte, error) {
	nc, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, nil, err
	}
	early, _ := buffered.Reader.Peek(buffered.Reader.Buffered())
	return nc, append([]byte(nil), early...), nil
}

// park parks nc, whose events go to h, and starts c on it. It returns what had
// been read before.
func (c *conn) park(nc net.Conn, h park.Handler, first []byte) (early []byte, err error) {
	early, err = c.s.o.Lot.Park(&c.parked, nc, h)
	if err != nil {
		return nil, err
	}
	c.start(first)
	c.member.Schedule()
	return early, nil
}

// parkedStream hears the events of a parked stream.
type parkedStream struct{ *sseStream }

// Readable notices that the client has gone, or has sent too much.
func (p parkedStream) Readable() {
	var b [512]byte
	for p.received < maxReceived {
		n, err := p.parked.Read(b[:])
		p.receive(n)
		if errors.Is(err, park.ErrWouldBlock) {
			p.parked.Resume()
			return
		}
		if err != nil {
			break
		}
	}
	p.close()
}

// Writable has the shard go on.
func (p parkedStream) Writable() { p.member.Schedule() }

// parkedSession hears the events of a parked session.
type parkedSession struct{ *mqttConn }

// Writable has the shard go on.
func (p parkedSession) Writable() { p.member.Schedule() }

// Readable starts a goroutine that serves what the client has sent: it may have
// to wait for the store, or for the client to read.
func (p parkedSession) Readable() { go p.readParked(nil) }

// readParked serves what the client has sent and sends now.
func (m *mqttConn) readParked(early []byte) {
	m.serving.Store(true)
	if len(early) > 0 && !m.deaf {
		m.deaf = !m.received(early)
	}
	buf := readBuffers.Get().(*[16 << 10]byte)
	defer readBuffers.Put(buf)
	for {
		n, err := m.parked.Read(buf[:])
		if errors.Is(err, park.ErrWouldBlock) {
			m.serving.Store(false)
			m.parked.Resume()
			return
		}
		if err != nil {
			m.close()
			return
		}
		m.deaf = m.deaf || !m.received(buf[:n])
	}
}
