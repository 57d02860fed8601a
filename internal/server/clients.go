package server

import (
	"maps"
	"slices"
	"sync"
)

// clients holds the session of each client on this node, by the hash of the client; see
// [session.HashClient].
type clients struct {
	mu       sync.Mutex
	sessions map[string]*mqttConn // guarded by mu
}

func newClients() *clients { return &clients{sessions: make(map[string]*mqttConn)} }

// claim makes m the session of client. It returns the session before, or nil.
func (c *clients) claim(client string, m *mqttConn) (old *mqttConn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	old = c.sessions[client]
	c.sessions[client] = m
	return old
}

// unclaim removes m, unless another session has claimed client.
func (c *clients) unclaim(client string, m *mqttConn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sessions[client] == m {
		delete(c.sessions, client)
	}
}

// get returns the session of client, or nil.
func (c *clients) get(client string) *mqttConn {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sessions[client]
}

// all returns the sessions in no order.
func (c *clients) all() []*mqttConn {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Collect(maps.Values(c.sessions))
}
