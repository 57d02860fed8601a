//go:build linux

package fault_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"pubsub/internal/testkit"
)

const adminToken = "admin-token-of-the-fault-run"

// node is a place in the cluster: one broker process after the other runs there.
type node struct {
	// immutable
	t       testing.TB
	name    string
	binary  string
	logs    string // directory
	addr    string
	ops     string
	links   []*testkit.Proxy // to the NATS servers, in their order
	history *history

	started int // owned by the test's goroutine

	mu  sync.Mutex
	now *broker // guarded by mu; nil while clients are not to come
}

// broker is a process of the binary.
type broker struct {
	// immutable
	node *node
	cmd  *exec.Cmd
	log  string // file
	http *http.Client

	// ending is set before the process is told to end: then its connections may.
	ending atomic.Bool
	exited chan struct{} // closed when the process has ended
	err    error         // how; read when exited is closed
}

func newNode(t testing.TB, name, binary, logs string, servers []*natsServer, h *history) *node {
	t.Helper()
	n := &node{t: t, name: name, binary: binary, logs: logs, history: h, addr: testkit.FreeAddress(t), ops: testkit.FreeAddress(t)}
	for _, s := range servers {
		n.links = append(n.links, testkit.NewProxy(t, s.addr))
	}
	t.Cleanup(n.kill)
	return n
}

// current returns the process that clients may come to, or nil.
func (n *node) current() *broker {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.now
}

// take takes the process away from clients; nil if there is none.
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

// start starts a process and returns once it answers clients, if only that NATS is
// away.
func (n *node) start() {
	n.t.Helper()
	n.started++
	b := &broker{
		node: n, log: filepath.Join(n.logs, fmt.Sprintf("%s.%d.log", n.name, n.started)), exited: make(chan struct{}),
		http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}, Timeout: testkit.Patience},
	}
	log, err := os.Create(b.log)
	if err != nil {
		n.t.Fatal(err)
	}
	defer log.Close()
	var urls []string
	for _, l := range n.links {
		urls = append(urls, "nats://"+l.Addr())
	}
	b.cmd = exec.Command(n.binary, "serve", "--listen="+n.addr, "--ops-listen="+n.ops, "--nats="+strings.Join(urls, ","),
		// Where announcements are lost between NATS servers, there is nothing but this.
		"--nats-sync-interval=5s",
		"--drain-timeout=500ms", "--sse-keep-alive=2s", "--ws-keep-alive=2s")
	b.cmd.Env = append(os.Environ(), "PUBSUB_ADMIN_TOKEN="+adminToken)
	b.cmd.Stderr = log
	b.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := b.cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	go b.wait()
	if !testkit.Within(testkit.Patience, func() bool { return b.get(n.addr, "/") == http.StatusOK || b.ended() }) {
		b.ending.Store(true)
		b.cmd.Process.Kill()
		<-b.exited
		n.t.Fatalf("%s does not answer after %v:\n%s", n.name, testkit.Patience, b.tail())
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.now = b
}

// wait waits for the process.
func (b *broker) wait() {
	b.err = b.cmd.Wait()
	if !b.ending.Load() {
		b.node.history.fault("crash", "%s has ended with %v", b.node.name, b.err)
	}
	close(b.exited)
}

func (b *broker) ended() bool {
	select {
	case <-b.exited:
		return true
	default:
		return false
	}
}

// kill ends the process at once.
func (n *node) kill() {
	if b := n.take(); b != nil {
		b.cmd.Process.Kill()
		<-b.exited
		b.bury()
	}
}

// terminate has the process drain, and waits for its end.
func (n *node) terminate() {
	b := n.take()
	if b == nil {
		return
	}
	b.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-b.exited:
		if b.err != nil {
			n.history.fault("crash", "%s was told to end, and did so with %v", n.name, b.err)
		}
	case <-time.After(testkit.Patience):
		n.history.fault("crash", "%s was told to end, and has not after %v", n.name, testkit.Patience)
		b.cmd.Process.Kill()
		<-b.exited
	}
	b.bury()
}

// bury looks for what a process must never log.
func (b *broker) bury() {
	b.http.CloseIdleConnections()
	text, err := os.ReadFile(b.log)
	if err != nil {
		b.node.t.Fatal(err)
	}
	for _, bad := range []string{"DATA RACE", "panic:", "fatal error:"} {
		if _, after, ok := strings.Cut(string(text), bad); ok {
			b.node.history.fault("crash", "the log of %s says: %s%.2000s", b.node.name, bad, after)
		}
	}
}

// tail returns the last lines of the log.
func (b *broker) tail() string {
	text, err := os.ReadFile(b.log)
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-3000):])
}

// get returns the status with which a listener of the process answers, 0 if it does
// not.
func (b *broker) get(addr, path string) (status int) {
	resp, err := b.http.Get("http://" + addr + path)
	if err != nil {
		return 0
	}
	resp.Body.Close()
	return resp.StatusCode
}

// unexplained returns err with what is known of it, unless the process was told to
// end, or the client.
func (b *broker) unexplained(ctx context.Context, err error) error {
	if ctx.Err() != nil || b.ending.Load() {
		return nil
	}
	return fmt.Errorf("%s: %w", b.node.name, err)
}

// fleet is all nodes.
type fleet []*node

// any returns one of the processes that clients may come to.
func (f fleet) any(ctx context.Context, r *rand.Rand) (*broker, error) {
	for ctx.Err() == nil {
		if b := f[r.IntN(len(f))].current(); b != nil && !b.ended() {
			return b, nil
		}
		pause(ctx, r, 10*time.Millisecond)
	}
	return nil, errors.New("no node")
}

// ready waits until all nodes are.
func (f fleet) ready() {
	for _, n := range f {
		b := n.current()
		if !testkit.Within(testkit.Patience, func() bool { return b.get(n.ops, "/readyz") == http.StatusOK || b.ended() }) {
			n.history.fault("readiness", "%s is not ready %v after all has healed", n.name, testkit.Patience)
		}
	}
}

// logs returns the last lines of the logs of all nodes.
func (f fleet) logs() string {
	var text strings.Builder
	for _, n := range f {
		if b := n.current(); b != nil {
			fmt.Fprintf(&text, "the log of %s ends:\n%s\n", n.name, b.tail())
		}
	}
	return text.String()
}
