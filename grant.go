package pubsub

import (
	"slices"
	"time"
)

// Grant holds the permissions of a verified credential. A nil Grant allows nothing.
type Grant struct {
	// KeyID is the kid of the signing key; it is empty for the admin token.
	KeyID string
	// Subject is the sub claim of the token, or empty.
	Subject string
	// Admin allows everything on every topic.
	Admin bool
	// Expires is when streams and sessions admitted by the token must end, leeway
	// included. The zero time means never.
	Expires time.Time

	read, write []string // immutable, sorted
}

// NewGrant returns a grant to subscribe to the topics in read and to publish to the
// topics in write. It copies both slices. The caller sets the exported fields.
func NewGrant(read, write []string) Grant {
	g := Grant{read: sorted(read), write: sorted(write)}
	if slices.Equal(g.read, g.write) {
		g.write = g.read // saves memory: each client may have a grant of its own
	}
	return g
}

func sorted(s []string) []string {
	s = slices.Clone(s)
	slices.Sort(s)
	return slices.Compact(s)
}

// CanRead reports whether g allows subscribing to t.
func (g *Grant) CanRead(t Topic) bool { return g != nil && (g.Admin || has(g.read, t)) }

// CanWrite reports whether g allows publishing to t. No grant allows publishing to a
// reserved topic.
func (g *Grant) CanWrite(t Topic) bool {
	return g != nil && !t.Reserved() && (g.Admin || has(g.write, t))
}

func has(s []string, t Topic) bool {
	_, ok := slices.BinarySearch(s, string(t))
	return ok
}
