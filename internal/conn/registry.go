package conn

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"
	"unique"

	"pubsub/internal/hub"
	"pubsub/internal/park"
)

// Options are the settings of all connections of a [Registry]. Hub and the functions are
// required.
type Options struct {
	Hub *hub.Hub
	// Lot holds the parked connections. It may be nil if no connection is parked.
	Lot *park.Lot
	// WriteTimeout is how long a client may take no byte; 0 means no limit.
	WriteTimeout time.Duration
	// LastWords is how long a client has, after SendLast, to take all pending bytes and to
	// close its side.
	LastWords time.Duration
	// Began is before any time that Now returns. A connection stores times as distances from
	// it.
	Began time.Time
	// Now is the clock.
	Now func() time.Time
	// Connected and Disconnected are called with Protocol.Name when a registered connection
	// starts, and when it is closed and its goroutines have ended.
	Connected, Disconnected func(name string)
	// Failed is called for failures that the operator should know of. event is a constant.
	Failed func(event string, err error)
}

// Registry holds the connections of this node.
type Registry struct {
	o Options // immutable

	mu sync.Mutex
	// guarded by mu
	conns    []*Conn // each at its Conn.index
	draining bool
	empty    chan struct{} // closed when conns is empty; nil unless Drain waits for that

	// goroutines counts each connection until its goroutines have ended, and those of Go.
	goroutines sync.WaitGroup
}

// NewRegistry returns a registry without connections.
func NewRegistry(o Options) *Registry { return &Registry{o: o} }

// add adds c, unless the node drains. It reports whether it did.
func (r *Registry) add(c *Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.draining {
		return false
	}
	c.index = int32(len(r.conns))
	r.conns = append(r.conns, c)
	r.goroutines.Add(1)
	return true
}

// remove removes c and reports whether it was there. A call of removed must follow.
func (r *Registry) remove(c *Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c.index < 0 {
		return false
	}
	last := len(r.conns) - 1
	r.conns[c.index] = r.conns[last]
	r.conns[c.index].index = c.index
	r.conns[last] = nil
	r.conns = r.conns[:last]
	c.index = -1
	if len(r.conns) == 0 && r.empty != nil {
		close(r.empty)
		r.empty = nil
	}
	return true
}

// removed reports the end of c, whose goroutines have ended.
func (r *Registry) removed(c *Conn) {
	r.o.Disconnected(c.proto.Name())
	r.goroutines.Done()
}

// Go runs f in a goroutine that Drain waits for. The caller works for a registered
// connection that is not closed, or is itself such a goroutine.
func (r *Registry) Go(f func()) { r.goroutines.Go(f) }

// GoUnlessDraining is Go for any caller. It does nothing while the node drains.
func (r *Registry) GoUnlessDraining(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.draining {
		r.goroutines.Go(f)
	}
}

// Wait waits for the goroutines of all connections and of Go.
func (r *Registry) Wait() { r.goroutines.Wait() }

// all returns the connections for which ok returns true, in no order.
func (r *Registry) all(ok func(*Conn) bool) []*Conn {
	r.mu.Lock()
	defer r.mu.Unlock()
	var cs []*Conn
	for _, c := range r.conns {
		if ok(c) {
			cs = append(cs, c)
		}
	}
	return cs
}

func anyConn(*Conn) bool { return true }

// EndKey ends the connections that the key kid admitted.
func (r *Registry) EndKey(kid string) {
	key := unique.Make(kid)
	for _, c := range r.all(func(c *Conn) bool { return c.kid == key }) {
		c.proto.End(KeyRevoked)
	}
}

// TickAll makes Protocol.Tick be called soon for every connection.
func (r *Registry) TickAll() {
	now := r.o.Now()
	for _, c := range r.all(anyConn) {
		c.DueBy(now)
	}
}

// Draining reports whether Drain was called.
func (r *Registry) Draining() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.draining
}

// drainStep is how often connections are ended while the node drains.
const drainStep = 20 * time.Millisecond

// Drain registers no connection from now on, ends the present ones spread evenly over the
// time over, and returns when all are closed and their goroutines have ended. Connections
// that are left when ctx is done, or a second after the last one had its LastWords, are
// closed.
func (r *Registry) Drain(ctx context.Context, over time.Duration) {
	r.mu.Lock()
	r.draining = true
	empty := make(chan struct{})
	if len(r.conns) == 0 {
		close(empty)
	} else {
		r.empty = empty
	}
	r.mu.Unlock()

	cs := r.all(anyConn)
	rand.Shuffle(len(cs), func(i, j int) { cs[i], cs[j] = cs[j], cs[i] })
	steps := max(1, int(over/drainStep))
	ticker := time.NewTicker(drainStep)
	defer ticker.Stop()
	for i, ended := 1, 0; ended < len(cs); i++ {
		// The first ends at once, the others at even distances.
		target := min(len(cs), (len(cs)*i+steps-1)/steps)
		for _, c := range cs[ended:target] {
			c.proto.End(Draining)
		}
		if ended = target; ended == len(cs) {
			break
		}
		select {
		case <-ticker.C:
		case <-empty: // the others have ended by themselves
			ended = len(cs)
		case <-ctx.Done():
			i = steps
		}
	}
	last := time.NewTimer(r.o.LastWords + time.Second)
	defer last.Stop()
	select {
	case <-empty:
	case <-last.C:
	case <-ctx.Done():
	}
	for _, c := range r.all(anyConn) {
		c.Close()
	}
	r.goroutines.Wait()
}
