package nats

import (
	"fmt"
	"maps"
	"sync"

	"pubsub"
)

// history is everything that was acknowledged in a run of TestFaults. The nodes' deliveries are
// checked against it.
type history struct {
	mu     sync.Mutex
	data   map[pubsub.Topic]map[pubsub.Version]string // guarded by mu: of every acknowledged message
	newest map[pubsub.Topic]pubsub.Version            // guarded by mu: of each topic
}

func newHistory() *history {
	return &history{data: map[pubsub.Topic]map[pubsub.Version]string{}, newest: map[pubsub.Topic]pubsub.Version{}}
}

// acknowledge records that m is stored with the version v.
func (h *history) acknowledge(m pubsub.Message, v pubsub.Version) {
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

// versions returns the newest version of each topic.
func (h *history) versions() map[pubsub.Topic]pubsub.Version {
	h.mu.Lock()
	defer h.mu.Unlock()
	return maps.Clone(h.newest)
}

// missing describes a topic of which n has neither read nor delivered the version in want or a
// newer one. It returns "" if there is no such topic.
func (n *node) missing(want map[pubsub.Topic]pubsub.Version) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	for t, v := range want {
		has := n.read[t]
		if l := n.delivered[t]; len(l) > 0 && l[len(l)-1].Version.Newer(has) {
			has = l[len(l)-1].Version
		}
		if v.Newer(has) {
			return fmt.Sprintf("topic %q: it has version %v, acknowledged was %v", t, has, v)
		}
	}
	return ""
}

// checkContent checks that n has delivered each acknowledged version with the data that was
// published. The versions of messages without an acknowledgement are unknown.
func (h *history) checkContent(n *node) {
	n.t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	n.mu.Lock()
	defer n.mu.Unlock()
	for t, l := range n.delivered {
		for _, m := range l {
			if want, ok := h.data[t][m.Version]; ok && string(m.Data) != want {
				n.t.Errorf("topic %q: version %v was delivered as %q, published as %q", t, m.Version, m.Data, want)
			}
		}
	}
}
