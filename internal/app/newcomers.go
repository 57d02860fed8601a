package app

import (
	"net"
	"net/http"
	"sync"
)

// newcomers are the connections of an http.Server that have not sent anything yet,
// such as browsers open in advance. Shutdown would wait 5 s for each of them.
type newcomers struct {
	mu sync.Mutex
	// guarded by mu
	conns  map[net.Conn]struct{}
	closed bool
}

func newNewcomers() *newcomers { return &newcomers{conns: make(map[net.Conn]struct{})} }

// state is the server's ConnState.
func (n *newcomers) state(c net.Conn, s http.ConnState) {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case s != http.StateNew:
		delete(n.conns, c)
	case n.closed:
		c.Close()
	default:
		n.conns[c] = struct{}{}
	}
}

// close closes them, and those that still come.
func (n *newcomers) close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.closed = true
	for c := range n.conns {
		c.Close()
	}
}
