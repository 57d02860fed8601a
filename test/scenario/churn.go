package scenario

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"runtime"
	"runtime/pprof"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pubsub/internal/config"
	"pubsub/internal/testkit"
)

var churnFlag = flag.Int("churn", 0, "connections that TestChurn makes; 0 for 2,000, or 50,000 if long tests run (10,000 with the race detector)")

const (
	// churners is how many clients connect and leave at the same time.
	churners = 64
	// unexplained is how many more sockets than those of the clients and those in the metrics there
	// may be during a churn, for each churner. A connection in its handshake is not in the metrics
	// and, while it is being parked, has two descriptors. The churner may have left another a
	// moment ago.
	unexplained = 3
	// heapFloor and residentFloor are the growth that is allowed however small the process is.
	// Pools, maps and the runtime's lists vary by a few dozen KiB. A leak of 6 bytes for each
	// of 50,000 connections would exceed the floor. Resident memory varies in larger pieces.
	heapFloor, residentFloor = 256 << 10, 4 << 20
)

// However clients leave, and at any point of a request, the node then has the same
// goroutines, descriptors, subscriptions, topics and memory as before. Clients that stay miss no
// message.
func TestChurn(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the test counts descriptors in /proc, which only Linux has")
	}
	others := len(descriptors(t)["socket"])
	n := start(t, func(cfg *config.Config) {
		// Not in memory, because the store's log would be part of the heap.
		cfg.InMemory, cfg.DataDir = false, config.Dir(t.TempDir())
		cfg.LogLevel = "error"         // log lines stay in memory
		cfg.SubscriberBuffer = 4 << 20 // so that clients that stay lose nothing on a busy machine
	})
	c := &churn{n: n, token: n.token(churnTopics...), sockets: others + 2} // the two listeners
	c.awaitEmpty()
	idle := runtime.NumGoroutine()
	// Fill the store's memtable, and connect the first clients: they allocate the memory that
	// stays.
	c.fillStore()
	count := churnCount()
	c.round(count / 10)
	before := c.footprint(idle)
	c.round(count)
	after := c.footprint(idle)
	t.Logf("%v connections, %d bytes of heap before and %d after, %d resident before and %d after",
		c.made.Load(), before.heap, after.heap, before.resident, after.resident)

	for kind := range after.fds {
		if more := len(after.fds[kind]) - len(before.fds[kind]); more > 0 {
			t.Errorf("%d more descriptors of the kind %s than before:\n%s", more, kind, nameSockets(after.fds[kind]))
		}
	}
	if more := after.goroutines - idle; more > 0 {
		var stacks bytes.Buffer
		pprof.Lookup("goroutine").WriteTo(&stacks, 1)
		t.Errorf("%d more goroutines than before:\n%.8000s", more, &stacks)
	}
	if more := after.heap - before.heap; more > max(before.heap/20, heapFloor) {
		t.Errorf("the heap of %d bytes has grown by %d", before.heap, more)
	}
	// Most resident memory is the race detector's own if it runs, and grows with each goroutine.
	if more := after.resident - before.resident; !testkit.Race && more > max(before.resident/20, residentFloor) {
		t.Errorf("the resident memory of %d bytes has grown by %d", before.resident, more)
	}
}

// churnCount returns how many connections TestChurn makes.
func churnCount() int {
	switch {
	case *churnFlag > 0:
		return *churnFlag
	case !testkit.Long():
		return 2000
	case testkit.Race:
		return 10_000 // takes 15 s with the race detector
	}
	return 50_000
}

// churnTopics are all published to all the time but for the last one, to which the churners
// publish.
var churnTopics = []string{"churn/0", "churn/1", "churn/2", "churn/3", "churn/4", "churn/5", "churn/6", "churn/7", "churn/left"}

// churn is a node to which clients connect and from which they leave.
type churn struct {
	n       *node
	token   string
	sockets int // open without clients

	made atomic.Int64 // connections made so far
	held atomic.Int64 // connections open at the client's side
}

// round makes count connections while two publishers publish and two subscribers stay.
func (c *churn) round(count int) {
	t := c.n.t
	t.Helper()
	stop := make(chan struct{})
	var publishing, staying, leaving sync.WaitGroup
	var left atomic.Int64
	left.Store(int64(count))
	for i, tr := range transports {
		w := c.newChurner(uint64(i))
		ready := make(chan struct{})
		staying.Go(func() { w.try("subscriber that stays: "+tr.name, func() { w.stay(tr.name, ready) }) })
		<-ready
	}
	for i := range 2 {
		w := c.newChurner(uint64(10 + i))
		publishing.Go(func() { w.try("publisher", func() { w.publishUntil(stop, fmt.Sprint("p", i)) }) })
	}
	for i := range churners {
		w := c.newChurner(uint64(100 + i))
		leaving.Go(func() {
			for left.Add(-1) >= 0 && !t.Failed() {
				w.try("churner", w.comeAndGo)
			}
		})
	}
	done := make(chan struct{})
	go func() {
		leaving.Wait()
		close(done)
	}()
	for every := int64(count / 10); ; every += int64(count / 10) {
		if !c.waitFor(done, &left, int64(count)-every) {
			break
		}
		c.explainSockets()
	}
	close(stop)
	publishing.Wait()
	staying.Wait()
}

// waitFor returns when at most atMost connections remain to be made. It reports whether clients
// are still connecting.
func (c *churn) waitFor(done <-chan struct{}, left *atomic.Int64, atMost int64) bool {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for left.Load() > atMost {
		select {
		case <-tick.C:
		case <-done:
			return false
		}
	}
	select {
	case <-done:
		return false
	default:
		return true
	}
}

// explainSockets checks that there is a reason for every socket.
func (c *churn) explainSockets() {
	t := c.n.t
	t.Helper()
	var sockets, explained int
	if !within(func() bool {
		known := int(c.n.metric("pubsub_connections{"))
		held := int(c.held.Load())
		sockets = len(descriptors(t)["socket"])
		// Two belong to the request for the metrics.
		explained = c.sockets + 2 + known + held
		return sockets <= explained+unexplained*churners
	}) {
		t.Errorf("%d sockets, of which %d are explained", sockets, explained)
	}
}

// awaitEmpty returns once all clients have left and the node has forgotten them.
func (c *churn) awaitEmpty() {
	t := c.n.t
	t.Helper()
	for _, metric := range []string{"pubsub_connections{", "pubsub_subscriptions", "pubsub_backlog_bytes"} {
		if !within(func() bool { return c.n.metric(metric) == 0 }) {
			t.Errorf("%s is %v after all clients have left", metric, c.n.metric(metric))
		}
	}
	_, body := c.n.do("GET", c.n.url("/admin/topics"), asAdmin(), "")
	var list struct {
		Topics []struct {
			Topic       string
			Subscribers int
		}
	}
	if err := json.Unmarshal([]byte(body), &list); err != nil {
		t.Fatalf("%v in %s", err, body)
	}
	for _, topic := range list.Topics {
		// The retained message stays.
		if topic.Subscribers != 0 || topic.Topic != "churn/left" {
			t.Errorf("the topic %s remains, with %d subscribers", topic.Topic, topic.Subscribers)
		}
	}
	c.n.http.CloseIdleConnections()
	within(func() bool { return len(descriptors(t)["socket"]) <= c.sockets })
}

// fillStore publishes more than fits into the store's memtable. It publishes one message at a time,
// because concurrent messages would leave buffers behind.
func (c *churn) fillStore() {
	large := strings.Repeat("x", 32000)
	for range 600 {
		c.n.publish("churn/left", large, "retain=true")
	}
}
