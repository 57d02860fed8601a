package server

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"pubsub/internal/conn"
)

// Sockets counts the TCP connections that a listener has accepted and keeps them within
// bounds. At a bound, the connection that has idled longest is closed for a new one. A
// connection idles until its first request has arrived completely, and between two requests.
//
// Its methods may be called concurrently.
type Sockets struct {
	o SocketOptions // immutable

	mu   sync.Mutex
	room sync.Cond // on mu: signals changes that Accept may wait for

	// guarded by mu
	max, maxPerIP int
	open          int                            // accepted or parked, and not closed
	idle          socketList                     // in order of how long they have idled
	addresses     map[conn.Network]*addressGroup // of connections that count for an address
	draining      bool                           // connections without a request are closed
	stats         SocketStats                    // but for Open and Max
}

// SocketOptions are the settings of a [Sockets].
type SocketOptions struct {
	// Max bounds the open connections; 0 means no limit. [Sockets.SetMax] changes it.
	Max int
	// TrustedProxies are the networks whose PROXY protocol headers are believed.
	TrustedProxies []netip.Prefix
	// HandshakeTimeout is how long a header of the PROXY protocol may take to arrive.
	HandshakeTimeout time.Duration
	// WriteTimeout is how long a peer may take no byte of a write; 0 means no limit.
	WriteTimeout time.Duration
	// Events receives the events of the connections; any of its functions may be nil.
	Events SocketEvents

	// countOf returns how many streams, sessions and WebSockets the server counts for a
	// network; nil means none.
	countOf func(conn.Network) int
}

// SocketEvents are the functions that a [Sockets] calls, for logs. They must not block.
type SocketEvents struct {
	// Limited is called when the setting named limit is reached: a connection was closed
	// because of it, or no connection is accepted until one ends.
	Limited func(limit string)
	// AcceptFailed is called when the system could not accept a connection for a
	// transient reason, such as a lack of descriptors.
	AcceptFailed func(err error)
	// HandshakeFailed is called when a connection ended within the TLS handshake, which
	// anyone can cause.
	HandshakeFailed func(from net.Addr, err error)
}

// SocketStats are the counts of a [Sockets].
type SocketStats struct {
	// Open is how many connections are open, and Max the bound, or 0 for none.
	Open, Max int
	// Closed and ClosedPerIP count the connections closed to keep within max-sockets
	// and max-connections-per-ip.
	Closed, ClosedPerIP uint64
	// Waits counts how often the listener stopped accepting until a connection ended.
	Waits uint64
}

// The settings that [SocketEvents.Limited] names.
const (
	limitSockets = "max-sockets"
	limitPerIP   = "max-connections-per-ip"
)

// addressGroup holds the connections that count for one network.
type addressGroup struct {
	from conn.Network // immutable

	// guarded by Sockets.mu
	n         int // connections
	streaming int // connections that carry streams over HTTP/2
	waiting   int // connections with a request whose body has not arrived
	idle      socketList
}

// NewSockets returns a Sockets without connections.
func NewSockets(o SocketOptions) *Sockets {
	if o.Events.Limited == nil {
		o.Events.Limited = func(string) {}
	}
	if o.Events.AcceptFailed == nil {
		o.Events.AcceptFailed = func(error) {}
	}
	if o.Events.HandshakeFailed == nil {
		o.Events.HandshakeFailed = func(net.Addr, error) {}
	}
	if o.countOf == nil {
		o.countOf = func(conn.Network) int { return 0 }
	}
	s := &Sockets{o: o, max: o.Max, addresses: make(map[conn.Network]*addressGroup)}
	s.room.L = &s.mu
	return s
}

// SetMax changes the bound. Idle connections over the bound stay until a new connection
// arrives, busy ones until they end.
func (s *Sockets) SetMax(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.max = n
	s.room.Broadcast()
}

// setMaxPerIP changes the bound for each network. Connections that were accepted without
// such a bound do not count for a later one.
func (s *Sockets) setMaxPerIP(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.maxPerIP = n
}

// Stats returns the counts.
func (s *Sockets) Stats() SocketStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.stats
	st.Open, st.Max = s.open, s.max
	return st
}

// Parked counts the descriptor of a connection that has left net/http instead of nc, which
// is closed next.
func (s *Sockets) Parked(nc net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c, ok := nc.(*httpConn); ok {
		s.forget(c.socket)
	}
	s.open++
}

// Unparked undoes Parked, once the descriptor is closed.
func (s *Sockets) Unparked() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open--
	s.room.Signal()
}

// Drain closes the connections without any request, such as those that browsers open in
// advance, and all new ones. [http.Server.Shutdown] would wait for them.
func (s *Sockets) Drain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.draining = true
	s.room.Broadcast()
	for k := s.idle.first; k != nil; {
		next := k.inAll.next
		if k.fresh {
			s.forget(k)
			k.Conn.Close()
		}
		k = next
	}
}

// ConnState is the server's [http.Server.ConnState].
func (s *Sockets) ConnState(c net.Conn, state http.ConnState) {
	hc, ok := c.(*httpConn)
	if !ok {
		return
	}
	switch {
	case state == http.StateIdle:
		hc.nextHead.Store(true)
	case state == http.StateActive && !hc.http2:
		// This goroutine has read the head, perhaps together with bytes before it. The
		// bytes that follow are not a head.
		hc.nextHead.Store(false)
		hc.head.ended = true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	k := hc.socket
	switch {
	case !k.counted || state == http.StateNew || state == http.StateClosed:
	case state == http.StateIdle:
		if !hc.http2 {
			s.change(k, 0, 0) // the body has arrived, or is no longer needed
		}
		s.setIdle(k)
	case state == http.StateActive:
		k.fresh = false
		s.setBusy(k)
	case state == http.StateHijacked:
		// From now on, the limits on streams and sessions count it.
		s.setBusy(k)
		s.leaveGroup(k)
	}
}

// ConnContext is the server's [http.Server.ConnContext].
func (s *Sockets) ConnContext(ctx context.Context, c net.Conn) context.Context {
	if hc, ok := c.(*httpConn); ok {
		return context.WithValue(ctx, socketKey{}, hc.socket)
	}
	return ctx
}

// socketKey is the key of the socket in the context of a request.
type socketKey struct{}

// socketOf returns the socket of r, or nil if it is not counted.
func socketOf(r *http.Request) *socket {
	k, _ := r.Context().Value(socketKey{}).(*socket)
	return k
}
