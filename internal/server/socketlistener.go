package server

import (
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"syscall"
	"time"
)

// Listener returns a listener whose connections s counts. Trusted proxies may name
// other addresses for them. If config is not nil, the connections use TLS without the knowledge
// of net/http, which recognizes HTTP/2 by its preface.
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
		// If all connections are busy, new ones wait in the kernel's queue.
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

// isTransient reports whether a later Accept may succeed after err, an error of accept(2). It
// cannot if the listener is invalid.
func isTransient(err error) bool {
	switch errno := syscall.Errno(0); {
	case errors.Is(err, net.ErrClosed) || !errors.As(err, &errno):
		return false
	default:
		return errno != syscall.EBADF && errno != syscall.EINVAL && errno != syscall.ENOTSOCK
	}
}

// acceptFailed reports an error of Accept. A lack of descriptors is handled like a bound that
// was reached.
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
