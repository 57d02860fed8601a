//go:build linux

package main

import (
	"sync"
	"sync/atomic"

	"pubsub/internal/testkit/history"
)

// truth is the published messages, as far as checkers need to know them.
type truth struct {
	// immutable
	topics     map[string]*topicTruth
	publishers int
}

// topicTruth is the truth about one topic.
type topicTruth struct {
	// begun counts, by publisher, the plain messages that it has begun to send.
	begun []atomic.Uint64
	// offset is how much of a subscriber's buffer all messages that were begun take.
	offset atomic.Uint64

	mu sync.Mutex
	// guarded by mu
	versions map[history.Version]string // names of retained messages, as subscribers received them
	last     []uint64                   // by publisher: the number of its last message; 0 until the publisher has ended
	newest   string                     // the retained message that is left; empty until the end
	final    history.Version            // of newest
}

func newTruth(topics []string, publishers int) *truth {
	t := &truth{topics: make(map[string]*topicTruth), publishers: publishers}
	for _, name := range topics {
		t.topics[name] = &topicTruth{
			begun:    make([]atomic.Uint64, publishers),
			versions: make(map[history.Version]string),
			last:     make([]uint64, publishers),
		}
	}
	return t
}

// versionOf notes that v is the version of the message called name. It returns the message that
// had the version before, or name.
func (t *topicTruth) versionOf(v history.Version, name string) (before string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	before, ok := t.versions[v]
	if !ok {
		t.versions[v] = name
		return name
	}
	return before
}

// ended notes the last message of a publisher.
func (t *topicTruth) ended(publisher int, seq uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last[publisher] = seq
}

// end notes the retained message that is left, and its version.
func (t *topicTruth) end(name string, v history.Version) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.newest, t.final = name, v
}
