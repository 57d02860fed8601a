package nats

import (
	"fmt"
	"maps"
	"sync"

	"pubsub"
)

// history is what publishers were told in a fault run; with what its nodes have
// delivered it can be checked.
type history struct {
	mu     sync.Mutex
	data   map[pubsub.Topic]map[pubsub.Version]string // guarded by mu: of every message that was acknowledged
	newest map[pubsub.Topic]pubsub.Version            // guarded by mu: of those, the last of each topic
}

func newHistory() *history {
	return &history{data: map[pubsub.Topic]map[pubsub.Version]string{}, newest: map[pubsub.Topic]pubsub.Version{}}
}

// acknowledged notes that m is stored with the version v.
func (h *history) acknowledged(m pubsub.Message, v pubsub.Version) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.data[m.Topic] == nil {
		h.data[m.Topic] = map[pubsub.Version]string{}
	}
	h.data[m.Topic][v] = string(m.Data)
	if v.Newer(h.newest[m.Topic]) {
		h.newest[m.Topic] = v
	}
}

// now returns the newest version of each topic.
func (h *history) now() map[pubsub.Topic]pubsub.Version {
	h.mu.Lock()
	defer h.mu.Unlock()
	return maps.Clone(h.newest)
}

// behind names a topic of which n has neither read nor been told the version in
// want or a newer one; "" if there is none.
func (n *node) behind(want map[pubsub.Topic]pubsub.Version) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	for t, v := range want {
		has := n.began[t]
		if l := n.got[t]; len(l) > 0 && l[len(l)-1].Version.Newer(has) {
			has = l[len(l)-1].Version
		}
		if v.Newer(has) {
			return fmt.Sprintf("topic %q: it has version %v, acknowledged was %v", t, has, v)
		}
	}
	return ""
}

// invented checks that what n has delivered is what was published as that version.
// Of what was not acknowledged nobody knows the version.
func (h *history) invented(n *node) {
	n.t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	n.mu.Lock()
	defer n.mu.Unlock()
	for t, l := range n.got {
		for _, m := range l {
			if want, ok := h.data[t][m.Version]; ok && string(m.Data) != want {
				n.t.Errorf("topic %q: version %v is delivered as %q, published was %q", t, m.Version, m.Data, want)
			}
		}
	}
}
