package pubsub

import (
	"slices"
	"time"
)

// Grant is what a verified credential allows, and until when. A nil one allows
// nothing.
type Grant struct {
	// KeyID is the kid of the signing key; empty for the admin token.
	KeyID string
	// Subject is the token's sub claim, empty if it has none.
	Subject string
	// Admin says that everything is allowed, on every topic.
	Admin bool
	// Expires is when a stream or session admitted by the token must end, leeway
	// included; zero means never.
	Expires time.Time

	read, write []string // immutable, sorted
}

// NewGrant returns a grant to read and write the topics named; the slices are
// copied. The other fields are for the caller to fill in.
func NewGrant(read, write []string) Grant {
	g := Grant{read: sorted(read), write: sorted(write)}
	if slices.Equal(g.read, g.write) {
		g.write = g.read // there may be a grant for each client
	}
	return g
}

func sorted(s []string) []string {
	s = slices.Clone(s)
	slices.Sort(s)
	return slices.Compact(s)
}

// CanRead reports whether g allows to subscribe to t.
func (g *Grant) CanRead(t Topic) bool { return g != nil && (g.Admin || has(g.read, t)) }

// CanWrite reports whether g allows to publish to t. Nothing allows to publish
// to a reserved topic.
func (g *Grant) CanWrite(t Topic) bool {
	return g != nil && !t.Reserved() && (g.Admin || has(g.write, t))
}

func has(s []string, t Topic) bool {
	_, ok := slices.BinarySearch(s, string(t))
	return ok
}
