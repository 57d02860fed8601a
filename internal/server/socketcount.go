package server

import (
	"net/netip"

	"pubsub/internal/conn"
)

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
		// k may have been closed while another connection was closed for it.
		if s.maxPerIP == 0 || from.IsZero() || !k.counted {
			return true
		}
		g := s.addresses[from]
		if g == nil {
			g = &addressGroup{from: from}
			s.addresses[from] = g
		}
		oldest := g.idle.first
		if oldest != nil && g.n-g.streaming+s.o.countOf(from) >= s.maxPerIP {
			s.closeFor(limitPerIP, oldest) // which may remove g
			continue
		}
		if g.waiting >= s.maxPerIP {
			s.closed(limitPerIP)
			return false
		}
		k.group = g
		g.n++
		if k.idle {
			g.idle.add(k, (*socket).linkInGroup)
		}
		return true
	}
}

// addStreams adds n, which may be negative, to the streams that k carries over HTTP/2. While
// k carries any, the limits count the streams instead of k.
func (s *Sockets) addStreams(k *socket, n int32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.change(k, k.streams+n, k.bodies)
}

// addBodies adds n, which may be negative, to the request bodies for which k waits. Over
// HTTP/1.1 it waits for none once it is idle.
func (s *Sockets) addBodies(k *socket, n int32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.change(k, k.streams, k.bodies+n)
}

// change sets the numbers of streams and bodies of k; mu must be held.
func (s *Sockets) change(k *socket, streams, bodies int32) {
	if g := k.group; g != nil {
		g.streaming += btoi(streams > 0) - btoi(k.streams > 0)
		g.waiting += btoi(bodies > 0) - btoi(k.bodies > 0)
	}
	k.streams, k.bodies = streams, bodies
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// closeFor closes k to keep within a limit; mu must be held, and is released while k is closed.
func (s *Sockets) closeFor(limit string, k *socket) {
	s.closed(limit)
	s.forget(k)
	s.mu.Unlock()
	k.Conn.Close()
	s.mu.Lock()
}

// closed counts a connection that is closed to keep within a limit; mu must be held.
func (s *Sockets) closed(limit string) {
	if limit == limitPerIP {
		s.stats.ClosedPerIP++
	} else {
		s.stats.Closed++
	}
	s.o.Events.Limited(limit)
}

// forget stops counting k; mu must be held.
func (s *Sockets) forget(k *socket) {
	if !k.counted {
		return
	}
	k.counted = false
	s.setBusy(k)
	s.leaveGroup(k)
	s.open--
	s.room.Signal()
}

// leaveGroup stops counting k for its address; mu must be held.
func (s *Sockets) leaveGroup(k *socket) {
	g := k.group
	if g == nil {
		return
	}
	s.change(k, 0, 0)
	k.group = nil
	if g.n--; g.n == 0 {
		delete(s.addresses, g.from)
	}
}

// setIdle appends k to the idle connections; mu must be held.
func (s *Sockets) setIdle(k *socket) {
	if k.idle {
		return
	}
	k.idle = true
	s.idle.add(k, (*socket).linkInAll)
	if k.group != nil {
		k.group.idle.add(k, (*socket).linkInGroup)
	}
	s.room.Signal()
}

// setBusy removes k from the idle connections; mu must be held.
func (s *Sockets) setBusy(k *socket) {
	if !k.idle {
		return
	}
	k.idle = false
	s.idle.remove(k, (*socket).linkInAll)
	if k.group != nil {
		k.group.idle.remove(k, (*socket).linkInGroup)
	}
}

// socketList is a list of sockets, linked by one of their links.
type socketList struct{ first, last *socket }

// socketLink holds the neighbors of a socket in a list.
type socketLink struct{ prev, next *socket }

func (l *socketList) add(k *socket, link func(*socket) *socketLink) {
	link(k).prev = l.last
	if l.last != nil {
		link(l.last).next = k
	} else {
		l.first = k
	}
	l.last = k
}

func (l *socketList) remove(k *socket, link func(*socket) *socketLink) {
	p := link(k)
	if p.prev != nil {
		link(p.prev).next = p.next
	} else {
		l.first = p.next
	}
	if p.next != nil {
		link(p.next).prev = p.prev
	} else {
		l.last = p.prev
	}
	*p = socketLink{}
}
