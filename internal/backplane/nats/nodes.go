package nats

import (
	"context"
	"maps"
	"sync"
	"time"

	"pubsub/internal/backplane/nats/layout"

	natsgo "github.com/nats-io/nats.go"
)

// helloInterval is the time between two hellos of a node.
const helloInterval = 10 * time.Second

// nodes are the nodes of the broker that this node knows, so that Gather can return when all have
// replied. A node says hello when it starts, after each connection and at intervals. It is
// forgotten when it leaves or does not reply.
//
// A node numbers its broadcasts, so that the others notice a lost one, whether they or their
// servers were disconnected.
type nodes struct {
	// immutable
	client *client
	greet  chan struct{} // one slot: say hello
	gaps   chan struct{} // one slot: a broadcast of another node was lost

	sending sync.Mutex
	number  uint64 // guarded by sending: of the last broadcast

	mu  sync.Mutex
	all map[uint64]uint64 // guarded by mu: the last number of each node, including this one
}

func newNodes(c *client) *nodes {
	return &nodes{
		client: c, greet: make(chan struct{}, 1), gaps: make(chan struct{}, 1),
		all: map[uint64]uint64{c.node: 0},
	}
}

func (n *nodes) count() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.all)
}

// known returns all nodes with their last numbers.
func (n *nodes) known() map[uint64]uint64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return maps.Clone(n.all)
}

// observe records that a broadcast of node has arrived. It reports whether node was unknown.
func (n *nodes) observe(node, number uint64) (isNew bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	last, known := n.all[node]
	n.all[node] = max(last, number)
	if number > last+1 && node != n.client.node {
		notify(n.gaps)
	}
	return !known
}

// add adds a node that has replied.
func (n *nodes) add(node uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, known := n.all[node]; !known {
		n.all[node] = 0
	}
}

// forget removes nodes, except this one.
func (n *nodes) forget(gone map[uint64]uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for node := range gone {
		if node != n.client.node {
			delete(n.all, node)
		}
	}
}

// run says hello until ctx is done, and then bye.
func (n *nodes) run(ctx context.Context) {
	connected := make(chan struct{}, 1)
	defer n.client.connections.add(connected)()
	n.say(controlHello)
	// Answers to the first hello may be lost, while not all servers know of this node's
	// subscription.
	settled := time.NewTimer(n.client.o.settleTime)
	defer settled.Stop()
	interval := time.NewTicker(min(helloInterval, n.client.o.SyncInterval))
	defer interval.Stop()
	for {
		select {
		case <-ctx.Done():
			n.say(controlBye)
			return
		case <-n.greet:
		case <-settled.C:
		case <-interval.C:
		case <-connected:
			settled.Reset(n.client.o.settleTime)
		}
		n.say(controlHello)
	}
}

// say broadcasts a message without a body that may get lost.
func (n *nodes) say(kind string) {
	if err := n.broadcast("", kind, nil); err != nil && !isTransient(err) {
		n.client.report("hello broadcast failed", err)
	}
}

// broadcast sends a control message to all nodes. If reply is not empty, they reply to that
// subject.
func (n *nodes) broadcast(reply, kind string, body []byte) error {
	n.sending.Lock()
	defer n.sending.Unlock()
	err := n.client.nc.PublishMsg(&natsgo.Msg{
		Subject: n.client.names.Control(),
		Reply:   reply,
		Data:    layout.AppendControl(nil, layout.Control{Node: n.client.node, Number: n.number + 1, Kind: kind, Body: body}),
	})
	if err == nil {
		n.number++
	}
	return err
}
