package token

import (
	"crypto/sha256"
	"sync"
)

// maxRecent is the maximum number of cached tokens.
const maxRecent = 256

// recent caches tokens with a valid signature. The clients of a public stream often use the
// same token: then it is parsed only once, and they share its grant.
type recent struct {
	mu     sync.RWMutex
	tokens map[[sha256.Size]byte]*verified // guarded by mu; the key is the hash of the token
}

func (r *recent) find(id [sha256.Size]byte) *verified {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.tokens[id]
}

// add adds t. If the cache is full, t replaces an arbitrary other token.
func (r *recent) add(id [sha256.Size]byte, t *verified) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.tokens == nil {
		r.tokens = make(map[[sha256.Size]byte]*verified)
	}
	for old := range r.tokens {
		if len(r.tokens) < maxRecent {
			break
		}
		delete(r.tokens, old)
	}
	r.tokens[id] = t
}
