package nats

import (
	"context"
	"maps"
	"sync"
	"time"

	natsgo "github.com/nats-io/nats.go"
)

// nodes are the nodes of the broker that this one knows, so that an Ask knows when
// it has all replies. A node says that it is there when it starts, after each
// connection and every sync interval; it is forgotten when it leaves, or does not
// reply.
type nodes struct {
	// immutable
	link  *link
	greet chan struct{} // one slot: say that this node is there

	mu  sync.Mutex
	all map[uint64]struct{} // guarded by mu; this node included
}

func newNodes(l *link) *nodes {
	return &nodes{link: l, greet: make(chan struct{}, 1), all: map[uint64]struct{}{l.node: {}}}
}

func (n *nodes) count() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.all)
}

// known returns the numbers of all nodes.
func (n *nodes) known() map[uint64]struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	return maps.Clone(n.all)
}

// add notes that node is there; true if that is news.
func (n *nodes) add(node uint64) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	_, was := n.all[node]
	n.all[node] = struct{}{}
	return !was
}

// hello notes that node is there, which may not know this one.
func (n *nodes) hello(node uint64) {
	if n.add(node) {
		kick(n.greet)
	}
}

// forget notes that nodes have left. This one does not, as long as it lives.
func (n *nodes) forget(gone map[uint64]struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for node := range gone {
		if node != n.link.node {
			delete(n.all, node)
		}
	}
}

// run says that this node is there until ctx is done, then that it leaves.
func (n *nodes) run(ctx context.Context) {
	connected := make(chan struct{}, 1)
	defer n.link.watchConnections(connected)()
	n.say(controlHello)
	// Once more when all servers know that this node listens.
	soon := time.NewTimer(lookAgainAfter)
	defer soon.Stop()
	interval := time.NewTicker(n.link.o.SyncInterval)
	defer interval.Stop()
	for {
		select {
		case <-ctx.Done():
			n.say(controlBye)
			return
		case <-n.greet:
		case <-soon.C:
		case <-interval.C:
		case <-connected:
			soon.Reset(lookAgainAfter)
		}
		n.say(controlHello)
	}
}

// say tells all nodes; nobody may hear it.
func (n *nodes) say(kind string) {
	m := &natsgo.Msg{Subject: n.link.names.control(), Data: appendControl(nil, n.link.node, kind, nil)}
	if err := n.link.nc.PublishMsg(m); err != nil && !passing(err) {
		n.link.report(err)
	}
}
