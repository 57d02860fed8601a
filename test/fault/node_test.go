//go:build linux

package fault_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pubsub/internal/testkit"
	"pubsub/internal/testkit/history"
	"pubsub/internal/testkit/process"
)

const adminToken = "admin-token-of-the-fault-run"

// node is a member of the cluster. Its broker processes run one after the other.
type node struct {
	// immutable
	t       testing.TB
	name    string
	binary  string
	addr    string
	ops     string
	links   []*testkit.Proxy // to the NATS servers, in their order
	checker *checker

	mu  sync.Mutex
	now *broker // guarded by mu; nil while clients must not connect
}

// broker is a process of a node.
type broker struct {
	*process.Broker

	// immutable
	node *node
	http *http.Client

	// ending is set before the process is ended. From then on its connections may
	// fail.
	ending atomic.Bool
}

func newNode(t testing.TB, name, binary string, servers []*natsServer, c *checker) *node {
	t.Helper()
	n := &node{t: t, name: name, binary: binary, checker: c, addr: testkit.FreeAddress(t), ops: testkit.FreeAddress(t)}
	for _, s := range servers {
		n.links = append(n.links, testkit.NewProxy(t, s.addr))
	}
	t.Cleanup(n.kill)
	return n
}

// current returns the process that clients may use, or nil.
func (n *node) current() *broker {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.now
}

// take makes clients leave the process alone and returns it, or nil.
func (n *node) take() *broker {
	n.mu.Lock()
	defer n.mu.Unlock()
	b := n.now
	n.now = nil
	if b != nil {
		b.ending.Store(true)
	}
	return b
}

// start starts a process and returns once it answers clients. It need not be ready:
// NATS may be unavailable.
func (n *node) start() {
	n.t.Helper()
	b := &broker{
		node: n, http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}, Timeout: testkit.Patience},
	}
	var urls []string
	for _, l := range n.links {
		urls = append(urls, "nats://"+l.Addr())
	}
	var err error
	b.Broker, err = process.Serve{
		Binary: n.binary, AdminToken: adminToken, Addr: n.addr, Ops: n.ops,
		Flags: []string{
			"--nats=" + strings.Join(urls, ","),
			// The only repair after NATS servers have lost announcements among
			// themselves.
			"--nats-sync-interval=5s",
			"--drain-timeout=500ms", "--sse-keep-alive=2s", "--ws-keep-alive=2s",
		},
	}.Start(context.Background())
	if err != nil {
		n.t.Fatalf("%s: %v", n.name, err)
	}
	go b.watch()
	if !testkit.Within(testkit.Patience, func() bool { return b.get(n.addr, "/") == http.StatusOK || b.Ended() }) {
		b.ending.Store(true)
		b.Kill()
		n.t.Fatalf("%s does not answer after %v:\n%s", n.name, testkit.Patience, b.Tail())
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.now = b
}

// watch reports a process that ends by itself.
func (b *broker) watch() {
	if err := b.Wait(); !b.ending.Load() {
		b.node.checker.Add(history.Broker, "%s has ended with %v", b.node.name, err)
	}
}

// kill ends the process at once.
func (n *node) kill() {
	if b := n.take(); b != nil {
		b.Kill()
		b.checkLog()
	}
}

// terminate makes the process drain, and waits for its end.
func (n *node) terminate() {
	b := n.take()
	if b == nil {
		return
	}
	if err := b.Terminate(testkit.Patience); err != nil {
		n.checker.Add(history.Broker, "%s, after SIGTERM: %v", n.name, err)
	}
	b.checkLog()
}

// checkLog looks for text that a process must never log.
func (b *broker) checkLog() {
	b.http.CloseIdleConnections()
	text := b.Output()
	for _, bad := range []string{"DATA RACE", "panic:", "fatal error:"} {
		if _, after, ok := strings.Cut(text, bad); ok {
			b.node.checker.Add(history.Broker, "the log of %s has: %s%.2000s", b.node.name, bad, after)
		}
	}
}

// get returns the status of a page of the process, or 0 if there is no answer.
func (b *broker) get(addr, path string) (status int) {
	resp, err := b.http.Get("http://" + addr + path)
	if err != nil {
		return 0
	}
	resp.Body.Close()
	return resp.StatusCode
}

// unexplained returns err with the name of the node, or nil if the process or the client
// is ending.
func (b *broker) unexplained(ctx context.Context, err error) error {
	if ctx.Err() != nil || b.ending.Load() {
		return nil
	}
	return fmt.Errorf("%s: %w", b.node.name, err)
}

// nodes are all nodes of a cluster.
type nodes []*node

// any returns one of the processes that clients may use.
func (ns nodes) any(ctx context.Context, r *rand.Rand) (*broker, error) {
	for ctx.Err() == nil {
		if b := ns[r.IntN(len(ns))].current(); b != nil && !b.Ended() {
			return b, nil
		}
		pause(ctx, r, 10*time.Millisecond)
	}
	return nil, errors.New("no node")
}

// waitReady waits until all nodes are ready.
func (ns nodes) waitReady() {
	for _, n := range ns {
		b := n.current()
		if !testkit.Within(testkit.Patience, func() bool { return b.get(n.ops, "/readyz") == http.StatusOK || b.Ended() }) {
			n.checker.Add(history.Broker, "%s is not ready %v after all faults have healed", n.name, testkit.Patience)
		}
	}
}

// logs returns the ends of the logs of all nodes.
func (ns nodes) logs() string {
	var text strings.Builder
	for _, n := range ns {
		if b := n.current(); b != nil {
			fmt.Fprintf(&text, "the log of %s ends:\n%s\n", n.name, b.Tail())
		}
	}
	return text.String()
}
