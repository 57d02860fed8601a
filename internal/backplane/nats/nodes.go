package nats

import (
	"context"
	"maps"
	"sync"
	"time"

	natsgo "github.com/nats-io/nats.go"
)

// helloEvery is how often a node says that it is there.
const helloEvery = 10 * time.Second

// nodes are the nodes of the broker that this one knows, so that an Gather knows when
// it has all replies. A node says that it is there when it starts, after each
// connection and from time to time; it is forgotten when it leaves, or does not reply.
//
// What a node tells all others is numbered, so that they notice that something never
// came: because they were not connected, or their servers were not.
type nodes struct {
	// immutable
	link   *link
	greet  chan struct{} // one slot: say that this node is there
	missed chan struct{} // one slot: something that another has told never came

	telling sync.Mutex
	told    uint64 // guarded by telling: the number of what was told last

	mu  sync.Mutex
	all map[uint64]uint64 // guarded by mu: of each node, this one included, the number of what came last
}

func newNodes(l *link) *nodes {
	return &nodes{
		link: l, greet: make(chan struct{}, 1), missed: make(chan struct{}, 1),
		all: map[uint64]uint64{l.node: 0},
	}
}

func (n *nodes) count() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.all)
}

// known returns all nodes, by their numbers.
func (n *nodes) known() map[uint64]uint64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return maps.Clone(n.all)
}

// heard notes that something has come that node had told all others; true if it was
// not known to be there.
func (n *nodes) heard(node, number uint64) (news bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	last, known := n.all[node]
	n.all[node] = max(last, number)
	if number > last+1 && node != n.link.node {
		kick(n.missed)
	}
	return !known
}

// replied notes that node is there.
func (n *nodes) replied(node uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, known := n.all[node]; !known {
		n.all[node] = 0
	}
}

// forget notes that nodes have left. This one does not, as long as it lives.
func (n *nodes) forget(gone map[uint64]uint64) {
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
	defer n.link.connections.add(connected)()
	n.say(controlHello)
	// Once more when all servers know that this node listens.
	soon := time.NewTimer(lookAgainAfter)
	defer soon.Stop()
	interval := time.NewTicker(min(helloEvery, n.link.o.SyncInterval))
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

// say is tell for what nobody has to hear.
func (n *nodes) say(kind string) {
	if err := n.tell("", kind, nil); err != nil && !passing(err) {
		n.link.report("hello failed", err)
	}
}

// tell tells all nodes, who reply to the subject reply, if there is one.
func (n *nodes) tell(reply, kind string, body []byte) error {
	n.telling.Lock()
	defer n.telling.Unlock()
	err := n.link.nc.PublishMsg(&natsgo.Msg{
		Subject: n.link.names.control(),
		Reply:   reply,
		Data:    appendControl(nil, n.link.node, n.told+1, kind, body),
	})
	if err == nil {
		n.told++
	}
	return err
}
