package server

import (
	"maps"
	"slices"
	"sync"
)

// clients knows the session of each client identifier on this node. Its keys are owners;
// see [session.HashClient].
type clients struct {
	mu       sync.Mutex
	sessions map[string]*mqttConn // guarded by mu
}

func newClients() *clients { return &clients{sessions: make(map[string]*mqttConn)} }

// claim makes m the session of a client identifier and returns the one before, or nil.
func (c *clients) claim(owner string, m *mqttConn) (old *mqttConn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	old = c.sessions[owner]
	c.sessions[owner] = m
	return old
}

// unclaim removes m, unless another session has claimed the client identifier.
func (c *clients) unclaim(owner string, m *mqttConn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sessions[owner] == m {
		delete(c.sessions, owner)
	}
}

// get returns the session of a client identifier, or nil.
func (c *clients) get(owner string) *mqttConn {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sessions[owner]
}

// all returns the sessions in no order.
func (c *clients) all() []*mqttConn {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Collect(maps.Values(c.sessions))
}
