package token

import (
	"crypto/sha256"
	"sync"
)

// maxRecent is how many tokens are remembered.
const maxRecent = 256

// recent remembers tokens whose signature was good. A public stream has one token
// for all its clients: they come back without it being read again, and share its
// grant.
type recent struct {
	mu     sync.RWMutex
	tokens map[[sha256.Size]byte]*signed // guarded by mu; by the hash of the whole token
}

func (r *recent) find(id [sha256.Size]byte) *signed {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.tokens[id]
}

// add remembers t, in place of any other if there is no room.
func (r *recent) add(id [sha256.Size]byte, t *signed) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.tokens == nil {
		r.tokens = make(map[[sha256.Size]byte]*signed)
	}
	for old := range r.tokens {
		if len(r.tokens) < maxRecent {
			break
		}
		delete(r.tokens, old)
	}
	r.tokens[id] = t
}
