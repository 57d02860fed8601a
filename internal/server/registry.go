package server

import (
	"context"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
	"unique"
)

// registry knows the streams and sessions of this node.
type registry struct {
	mu sync.Mutex
	// guarded by mu
	conns    []*conn              // each knows its place
	clients  map[string]*mqttConn // by owner-qualified client identifier
	draining bool
	empty    chan struct{} // not nil while somebody waits for the last to go

	goroutines sync.WaitGroup // one for each connection, until nobody reads or writes for it
}

func newRegistry() *registry {
	return &registry{clients: make(map[string]*mqttConn)}
}

// add notes c; false if the server drains, and c must not start.
func (r *registry) add(c *conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.draining {
		return false
	}
	c.at = int32(len(r.conns))
	r.conns = append(r.conns, c)
	r.goroutines.Add(1)
	return true
}

// setKey notes which key has admitted c; false if that is gone, which may have
// happened since the token was checked.
func (r *registry) setKey(c *conn, kid string, isGone func(kid string) bool) bool {
	if kid == "" {
		return true
	}
	r.mu.Lock()
	c.kid = unique.Make(kid)
	r.mu.Unlock()
	// After it has been noted: from then on endKey finds c.
	return !isGone(kid)
}

func (r *registry) remove(c *conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	last := len(r.conns) - 1
	r.conns[c.at] = r.conns[last]
	r.conns[c.at].at = c.at
	r.conns[last] = nil
	r.conns = r.conns[:last]
	if len(r.conns) == 0 && r.empty != nil {
		close(r.empty)
		r.empty = nil
	}
}

// claim makes c the session of a client identifier and returns the one before.
func (r *registry) claim(client string, c *mqttConn) *mqttConn {
	r.mu.Lock()
	defer r.mu.Unlock()
	old := r.clients[client]
	r.clients[client] = c
	return old
}

// unclaim forgets c as the session of a client identifier.
func (r *registry) unclaim(client string, c *mqttConn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.clients[client] == c {
		delete(r.clients, client)
	}
}

func (r *registry) client(client string) *mqttConn {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.clients[client]
}

// spawn has f run by a goroutine that Drain waits for, unless it has begun.
func (r *registry) spawn(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.draining {
		r.goroutines.Go(f)
	}
}

// sessions returns the session of each client identifier, in no order.
func (r *registry) sessions() []*mqttConn {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Collect(maps.Values(r.clients))
}

// those returns the connections for which ok holds, in no order.
func (r *registry) those(ok func(*conn) bool) []*conn {
	r.mu.Lock()
	defer r.mu.Unlock()
	var cs []*conn
	for _, c := range r.conns {
		if ok(c) {
			cs = append(cs, c)
		}
	}
	return cs
}

// endKey ends what the key kid admitted.
func (s *Server) endKey(kid string) {
	key := unique.Make(kid)
	for _, c := range s.registry.those(func(c *conn) bool { return c.kid == key }) {
		c.proto.end(endRevoked)
	}
}

// draining reports whether the server takes nothing new.
func (s *Server) draining() bool {
	s.registry.mu.Lock()
	defer s.registry.mu.Unlock()
	return s.registry.draining
}

// drainStep is how often streams are closed while draining.
const drainStep = 20 * time.Millisecond

// Drain takes nothing new from now on, ends the streams and sessions spread over
// the drain timeout, and returns when all are gone. What is left when ctx is
// done, or a moment after the last was told, is closed.
func (s *Server) Drain(ctx context.Context) {
	r := s.registry
	r.mu.Lock()
	r.draining = true
	empty := make(chan struct{})
	if len(r.conns) == 0 {
		close(empty)
	} else {
		r.empty = empty
	}
	r.mu.Unlock()

	cs := r.those(func(*conn) bool { return true })
	rand.Shuffle(len(cs), func(i, j int) { cs[i], cs[j] = cs[j], cs[i] })
	steps := max(1, int(s.o.DrainTimeout/drainStep))
	ticker := time.NewTicker(drainStep)
	defer ticker.Stop()
	for i, ended := 1, 0; ended < len(cs); i++ {
		// The first goes at once, the others at even distances.
		target := min(len(cs), (len(cs)*i+steps-1)/steps)
		for _, c := range cs[ended:target] {
			c.proto.end(endDrain)
		}
		if ended = target; ended == len(cs) {
			break
		}
		select {
		case <-ticker.C:
		case <-empty: // the others have gone by themselves
			ended = len(cs)
		case <-ctx.Done():
			i = steps
		}
	}
	last := time.NewTimer(s.o.LastWords + time.Second)
	defer last.Stop()
	select {
	case <-empty:
	case <-last.C:
	case <-ctx.Done():
	}
	for _, c := range r.those(func(*conn) bool { return true }) {
		c.close()
	}
	r.goroutines.Wait()
}
