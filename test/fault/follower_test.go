//go:build linux

package fault_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"pubsub/internal/testkit"
	"pubsub/internal/testkit/history"
)

// follower is a subscriber that connects again, to any node, whenever its connection
// has ended.
type follower struct {
	// immutable
	name    string
	topics  []string
	token   string
	nodes   nodes
	checker *checker
	// connect subscribes over conn and returns a function that reads one event or
	// packet after the other for the checker.
	connect func(f *follower, conn net.Conn, where string) (read func() error, err error)

	rand   *rand.Rand // owned by its goroutine
	lastID string     // owned by its goroutine; of a stream

	mu   sync.Mutex
	conn net.Conn // guarded by mu; nil while it is not subscribed
	left bool     // guarded by mu: it has closed conn itself
}

// follow reads from one node after the other until ctx is done.
func (f *follower) follow(ctx context.Context) {
	for ctx.Err() == nil {
		b, err := f.nodes.any(ctx, f.rand)
		if err != nil {
			return
		}
		f.once(ctx, b)
		pause(ctx, f.rand, time.Second) // as clients do
	}
}

// once is one connection.
func (f *follower) once(ctx context.Context, b *broker) {
	conn, err := net.Dial("tcp", b.node.addr)
	if err != nil {
		f.refused(ctx, b, err)
		return
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	deadline(conn)
	read, err := f.connect(f, conn, b.node.name)
	if err != nil {
		f.refused(ctx, b, err)
		return
	}
	f.mu.Lock()
	f.conn, f.left = conn, false
	f.mu.Unlock()
	for err == nil {
		deadline(conn) // keep-alives come more often
		err = read()
	}
	f.mu.Lock()
	left := f.left
	f.conn = nil
	f.mu.Unlock()
	if err := b.unexplained(ctx, err); err != nil && !left {
		f.checker.Add(history.Connection, "the connection of %s has ended: %v", f.name, err)
	}
}

// errRefused means that a broker refuses a client for the moment, as it may while NATS is
// unavailable.
var errRefused = errors.New("refused")

// refused counts a connection that was refused, and reports it unless it may be.
func (f *follower) refused(ctx context.Context, b *broker, err error) {
	f.checker.refused()
	if err := b.unexplained(ctx, err); err != nil && !errors.Is(err, errRefused) {
		f.checker.Add(history.Connection, "%s cannot connect: %v", f.name, err)
	}
}

// subscribed reports whether the follower is subscribed.
func (f *follower) subscribed() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.conn != nil
}

// leave ends the connection, if there is one.
func (f *follower) leave() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.conn != nil {
		f.left = true
		f.conn.Close()
	}
}

// silence is how long a broker may send nothing, not even a keep-alive.
const silence = testkit.Patience / 2

// deadline bounds the next reads and writes of a connection.
func deadline(c net.Conn) { c.SetDeadline(time.Now().Add(silence)) }

// refusal returns an error that wraps errRefused.
func refusal(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errRefused, fmt.Sprintf(format, args...))
}
