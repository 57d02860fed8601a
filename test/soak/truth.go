//go:build linux

package main

import (
	"sync"
	"sync/atomic"
)

// truth is what was published, as far as a checker needs to know.
type truth struct {
	// immutable
	topics     map[string]*topicTruth
	publishers int
}

// topicTruth is the truth about one topic.
type topicTruth struct {
	// begun is, by publisher, how many plain messages it has begun to send.
	begun []atomic.Uint64
	// offset is what all messages that were begun take of a subscriber's buffer.
	offset atomic.Uint64

	mu sync.Mutex
	// guarded by mu
	versions map[version]string // names of retained messages, as subscribers were told
	last     []uint64           // by publisher: the number of its last message; 0 until it has ended
	newest   string             // the retained message that is left; empty until the end
	final    version            // that of newest
}

func newTruth(topics []string, publishers int) *truth {
	t := &truth{topics: make(map[string]*topicTruth), publishers: publishers}
	for _, name := range topics {
		t.topics[name] = &topicTruth{
			begun:    make([]atomic.Uint64, publishers),
			versions: make(map[version]string),
			last:     make([]uint64, publishers),
		}
	}
	return t
}

// versionOf notes that the version v is that of the message called name, and
// returns what it was called before: a version is that of one message.
func (t *topicTruth) versionOf(v version, name string) (before string) {
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
func (t *topicTruth) end(name string, v version) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.newest, t.final = name, v
}
