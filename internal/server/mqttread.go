package server

import (
	"errors"
	"net"
	"sync"
	"time"

	"pubsub/internal/conn"
	"pubsub/internal/mqtt"
	"pubsub/internal/park"
	"pubsub/internal/session"
)

// serve starts m, which is registered, on nc: first is sent to the client, early was read
// from it. After an error, m must be passed to HijackFailed.
func (m *mqttConn) serve(nc net.Conn, early, first []byte) error {
	if m.Parked() {
		more, err := m.Park(nc)
		if err != nil {
			return err
		}
		m.StartParked(first)
		go m.readParked(append(early, more...))
		return nil
	}
	nc.SetDeadline(time.Time{})
	m.StartGoroutines(conn.NetTransport{Conn: nc}, first)
	go m.read(nc, early)
	return nil
}

// readBuffers are for clients that send much at once.
var readBuffers = sync.Pool{New: func() any { return new([16 << 10]byte) }}

// read serves the client's bytes until the client goes.
func (m *mqttConn) read(nc net.Conn, early []byte) {
	m.SetServing(true)
	m.take(early)
	var small [256]byte // all that an idle session keeps
	for err := error(nil); err == nil; {
		var n int
		n, err = m.await(nc, small[:])
		m.take(small[:n])
		if n < len(small) || err != nil {
			continue
		}
		large := readBuffers.Get().(*[16 << 10]byte)
		for n >= len(small) && err == nil {
			n, err = m.await(nc, large[:])
			m.take(large[:n])
		}
		readBuffers.Put(large)
	}
	m.Close()
	m.Wait()
}

// await reads from nc; meanwhile m serves nothing.
func (m *mqttConn) await(nc net.Conn, b []byte) (n int, err error) {
	m.SetServing(false)
	defer m.SetServing(true)
	return nc.Read(b)
}

// Readable starts a goroutine that serves the client's bytes, because it may have to wait
// for the store, or for the client to read.
func (m *mqttConn) Readable() { go m.readParked(nil) }

// readParked serves early, then the bytes that the client has sent.
func (m *mqttConn) readParked(early []byte) {
	m.SetServing(true)
	m.take(early)
	buf := readBuffers.Get().(*[16 << 10]byte)
	defer readBuffers.Put(buf)
	for {
		n, err := m.ReadParked(buf[:])
		if errors.Is(err, park.ErrWouldBlock) {
			m.SetServing(false)
			m.AwaitInput()
			return
		}
		if err != nil {
			m.Close()
			return
		}
		m.take(buf[:n])
	}
}

// take serves bytes of the client, unless m takes no more.
func (m *mqttConn) take(b []byte) {
	m.ignoreInput = m.ignoreInput || !m.framing().receive(b)
}

// packets takes a piece of the stream of packets. It reports whether m takes more.
func (m *mqttConn) packets(b []byte) (more bool) {
	if m.partial != nil {
		*m.partial = append(*m.partial, b...)
		b = *m.partial
	}
	for len(b) > 0 {
		n, err := mqtt.PacketLen(b, m.s.sessions.MaxPacketSize())
		if err != nil || !m.gotPacket && mqtt.TypeOf(b[0]) != mqtt.TypeConnect {
			m.step(session.Unreadable{First: b[0], Err: err})
			return false
		}
		if n == 0 || n > len(b) {
			break
		}
		m.gotPacket = true
		if !m.WaitRoom() || !m.step(session.Packet{Raw: b[:n], Topics: &m.Subscriber, Unacknowledged: m.unacknowledged()}) {
			return false
		}
		b = b[n:]
	}
	switch {
	case len(b) == 0:
		m.partial = nil
	case m.partial != nil:
		*m.partial = append((*m.partial)[:0], b...)
	default:
		part := append([]byte(nil), b...)
		m.partial = &part
	}
	return true
}
