package server

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"pubsub/internal/conn"
)

// Sockets counts the TCP connections that a listener has accepted and keeps them
// within bounds. At a bound the connection that has idled longest without a request
// is closed for a new one. A connection idles from when it is accepted until its
// first request has arrived whole, and between two requests.
//
// Its methods may be called at the same time.
type Sockets struct {
	o SocketOptions // immutable

	mu   sync.Mutex
	room sync.Cond // on mu: signals changes that Accept may wait for

	// guarded by mu
	max, maxPerIP int
	open          int                     // accepted or parked, and not closed
	idle          socketList              // in order of how long they have idled
	addresses     map[conn.Network]*owner // of connections that count for an address
	draining      bool                    // connections that have sent nothing are closed
	stats         SocketStats             // but for Open and Max
}

// SocketOptions says how a [Sockets] treats connections.
type SocketOptions struct {
	// Max bounds the open connections; 0 means no limit. [Sockets.SetMax] changes it.
	Max int
	// TrustedProxies are the networks whose PROXY protocol headers are believed.
	TrustedProxies []netip.Prefix
	// HandshakeTimeout is how long a PROXY protocol header may take to arrive.
	HandshakeTimeout time.Duration
	// WriteTimeout is how long a peer may take no byte of a write; 0 means for ever.
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
	// any stranger can cause.
	HandshakeFailed func(from net.Addr, err error)
}

// SocketStats are the counts of a [Sockets].
type SocketStats struct {
	// Open is how many connections are open, and Max the bound, or 0 for none.
	Open, Max int
	// Closed and ClosedPerIP count the connections closed to keep within max-sockets
	// and max-connections-per-ip.
	Closed, ClosedPerIP uint64
	// Waits counts how often nothing was accepted until a connection ended.
	Waits uint64
}

// The settings that [SocketEvents.Limited] names.
const (
	limitSockets = "max-sockets"
	limitPerIP   = "max-connections-per-ip"
)

// owner is a network for which connections count.
type owner struct {
	from conn.Network // immutable

	// guarded by Sockets.mu
	n         int // connections
	streaming int // those that carry streams over HTTP/2
	waiting   int // those with a request whose body has not arrived
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
	s := &Sockets{o: o, max: o.Max, addresses: make(map[conn.Network]*owner)}
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

// Parked counts the descriptor of a connection that has left net/http, in place of nc,
// which is closed next: it is one connection.
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

// Drain closes the connections that have sent nothing, such as those that browsers open
// in advance, and all new ones. [http.Server.Shutdown] would wait for them.
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
		// The head has been read, by this goroutine: perhaps together with what came before
		// it. What follows is no head.
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
		// A stream or session: the limits on connections count it from now on.
		s.setBusy(k)
		s.disown(k)
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

// socketOf returns the socket that r came over; nil if none is counted.
func socketOf(r *http.Request) *socket {
	k, _ := r.Context().Value(socketKey{}).(*socket)
	return k
}

// Listener returns a listener whose connections s counts. Their addresses are those that
// trusted proxies name. If config is not nil, the connections speak TLS, of which
// net/http knows nothing; it recognizes HTTP/2 by its preface.
func (s *Sockets) Listener(ln net.Listener, config *tls.Config) net.Listener {
	return &socketListener{Listener: ln, sockets: s, config: config, closed: make(chan struct{})}
}

type socketListener struct {
	// immutable
	net.Listener
	sockets *Sockets
	config  *tls.Config

	once   sync.Once
	closed chan struct{}
}

// Close closes the listener, and ends an Accept that waits for room.
func (l *socketListener) Close() error {
	l.once.Do(func() {
		close(l.closed)
		l.sockets.mu.Lock()
		defer l.sockets.mu.Unlock()
		l.sockets.room.Broadcast()
	})
	return l.Listener.Close()
}

// Accept waits for room, then for a connection.
func (l *socketListener) Accept() (net.Conn, error) {
	s := l.sockets
	var delay time.Duration
	for {
		// If all are busy, new connections wait in the kernel's queue.
		if !s.awaitRoom(l) {
			return nil, net.ErrClosed
		}
		nc, err := l.Listener.Accept()
		if err != nil {
			if !isTransient(err) {
				return nil, err
			}
			s.acceptFailed(err)
			delay = min(max(2*delay, minAcceptDelay), maxAcceptDelay)
			select {
			case <-time.After(delay):
			case <-l.closed:
			}
			continue
		}
		delay = 0
		k := &socket{Conn: nc, sockets: s, fresh: true}
		if !s.add(l, k) {
			nc.Close()
			continue
		}
		c := &httpConn{Conn: k, socket: k}
		if peer := addrOf(nc.RemoteAddr()); contains(s.o.TrustedProxies, peer) {
			c.Conn = newProxiedConn(k, s.o.HandshakeTimeout)
		} else if !s.count(k, peer) {
			k.Close()
			continue
		}
		if l.config != nil {
			c.tls = tls.Server(c.Conn, l.config)
			c.Conn = c.tls
		}
		return c, nil
	}
}

// The wait grows with each consecutive failure of accept.
const (
	minAcceptDelay = 5 * time.Millisecond
	maxAcceptDelay = time.Second
)

// isTransient reports whether a later Accept may succeed: after every error of accept(2)
// other than that of an invalid listener.
func isTransient(err error) bool {
	switch errno := syscall.Errno(0); {
	case errors.Is(err, net.ErrClosed) || !errors.As(err, &errno):
		return false
	default:
		return errno != syscall.EBADF && errno != syscall.EINVAL && errno != syscall.ENOTSOCK
	}
}

// acceptFailed counts an error of Accept. A lack of descriptors is treated like a bound
// that was reached.
func (s *Sockets) acceptFailed(err error) {
	s.o.Events.AcceptFailed(err)
	s.mu.Lock()
	defer s.mu.Unlock()
	if k := s.idle.first; k != nil && (errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)) {
		s.closeFor(limitSockets, k)
	}
}

// awaitRoom waits until there is room for a connection, or an idle one can be closed for
// it. It reports whether l is still open.
func (s *Sockets) awaitRoom(l *socketListener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	waited := false
	for s.max > 0 && s.open >= s.max && s.idle.first == nil && !s.draining {
		select {
		case <-l.closed:
			return false
		default:
		}
		if !waited {
			waited = true
			s.stats.Waits++
			s.o.Events.Limited(limitSockets)
		}
		s.room.Wait()
	}
	return true
}

// add counts k, which is idle, once there is room for it. It reports whether k is
// accepted.
func (s *Sockets) add(l *socketListener, k *socket) bool {
	for {
		if !s.awaitRoom(l) {
			return false
		}
		s.mu.Lock()
		switch oldest := s.idle.first; {
		case s.draining:
			s.mu.Unlock()
			return false
		case s.max == 0 || s.open < s.max:
			s.open++
			k.counted = true
			s.setIdle(k)
			s.mu.Unlock()
			return true
		case oldest != nil:
			s.closeFor(limitSockets, oldest)
		}
		s.mu.Unlock()
	}
}

// count counts k for the address a, together with its streams and sessions, and reports
// whether k is accepted. At the bound, the connections that have idled longest are closed
// for k. If none idles, k is still accepted, so that its client can receive the refusal
// of its stream. It is not accepted if as many connections as the bound wait for bodies
// of requests, because a client can keep connections busy only in that way.
func (s *Sockets) count(k *socket, a netip.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	from := conn.NetworkOf(a)
	for {
		// k may have been closed, too, while another was closed for it.
		if s.maxPerIP == 0 || from.IsZero() || !k.counted {
			return true
		}
		o := s.addresses[from]
		if o == nil {
			o = &owner{from: from}
			s.addresses[from] = o
		}
		oldest := o.idle.first
		if oldest != nil && o.n-o.streaming+s.o.countOf(from) >= s.maxPerIP {
			s.closeFor(limitPerIP, oldest) // which may forget o
			continue
		}
		if o.waiting >= s.maxPerIP {
			s.closed(limitPerIP)
			return false
		}
		k.owner = o
		o.n++
		if k.idle {
			o.idle.add(k, (*socket).placeInOwner)
		}
		return true
	}
}

// carry adds streams, which may be negative, to the streams that k carries over HTTP/2.
// While k carries any, the limits on connections count those instead.
func (s *Sockets) carry(k *socket, streams int32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.change(k, k.streams+streams, k.bodies)
}

// await adds bodies, which may be negative, to the request bodies for which k waits. Over
// HTTP/1.1 k waits for none once it is idle.
func (s *Sockets) await(k *socket, bodies int32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.change(k, k.streams, k.bodies+bodies)
}

// change sets the numbers of streams and bodies of k; mu is held.
func (s *Sockets) change(k *socket, streams, bodies int32) {
	if o := k.owner; o != nil {
		o.streaming += btoi(streams > 0) - btoi(k.streams > 0)
		o.waiting += btoi(bodies > 0) - btoi(k.bodies > 0)
	}
	k.streams, k.bodies = streams, bodies
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// closeFor closes k to keep within a limit; mu is held, but not while k is closed.
func (s *Sockets) closeFor(limit string, k *socket) {
	s.closed(limit)
	s.forget(k)
	s.mu.Unlock()
	k.Conn.Close()
	s.mu.Lock()
}

// closed counts a connection that is closed to keep within a limit; mu is held.
func (s *Sockets) closed(limit string) {
	if limit == limitPerIP {
		s.stats.ClosedPerIP++
	} else {
		s.stats.Closed++
	}
	s.o.Events.Limited(limit)
}

// forget stops counting k; mu is held.
func (s *Sockets) forget(k *socket) {
	if !k.counted {
		return
	}
	k.counted = false
	s.setBusy(k)
	s.disown(k)
	s.open--
	s.room.Signal()
}

// disown stops counting k for its address; mu is held.
func (s *Sockets) disown(k *socket) {
	o := k.owner
	if o == nil {
		return
	}
	s.change(k, 0, 0)
	k.owner = nil
	if o.n--; o.n == 0 {
		delete(s.addresses, o.from)
	}
}

// setIdle appends k to the idle connections; mu is held.
func (s *Sockets) setIdle(k *socket) {
	if k.idle {
		return
	}
	k.idle = true
	s.idle.add(k, (*socket).placeInAll)
	if k.owner != nil {
		k.owner.idle.add(k, (*socket).placeInOwner)
	}
	s.room.Signal()
}

// setBusy removes k from the idle connections; mu is held.
func (s *Sockets) setBusy(k *socket) {
	if !k.idle {
		return
	}
	k.idle = false
	s.idle.remove(k, (*socket).placeInAll)
	if k.owner != nil {
		k.owner.idle.remove(k, (*socket).placeInOwner)
	}
}

// socketList is a list of sockets that are linked by one of their places.
type socketList struct{ first, last *socket }

// socketPlace is a socket's place in a list.
type socketPlace struct{ prev, next *socket }

func (l *socketList) add(k *socket, place func(*socket) *socketPlace) {
	place(k).prev = l.last
	if l.last != nil {
		place(l.last).next = k
	} else {
		l.first = k
	}
	l.last = k
}

func (l *socketList) remove(k *socket, place func(*socket) *socketPlace) {
	p := place(k)
	if p.prev != nil {
		place(p.prev).next = p.next
	} else {
		l.first = p.next
	}
	if p.next != nil {
		place(p.next).prev = p.prev
	} else {
		l.last = p.prev
	}
	*p = socketPlace{}
}
