package pubsub_test

import (
	"slices"
	"testing"

	"pubsub"
)

func TestGrant(t *testing.T) {
	read := []string{"b", "$sys", "a", "b", "", "+", "é"}
	write := []string{"$sys", "w", "#"}
	g := pubsub.NewGrant(read, write)
	admin := pubsub.Grant{Admin: true}
	var zero pubsub.Grant
	var nilGrant *pubsub.Grant
	for _, tt := range []struct {
		topic                 pubsub.Topic
		read, write           bool
		adminRead, adminWrite bool
	}{
		{"a", true, false, true, true},
		{"b", true, false, true, true},
		{"é", true, false, true, true},
		{"w", false, true, true, true},
		{"$sys", true, false, true, false}, // no client may publish to it
		{"A", false, false, true, true},
		{"a/", false, false, true, true},
		{"c", false, false, true, true},
	} {
		if g.CanRead(tt.topic) != tt.read || g.CanWrite(tt.topic) != tt.write {
			t.Errorf("%q: CanRead = %v, CanWrite = %v", tt.topic, g.CanRead(tt.topic), g.CanWrite(tt.topic))
		}
		if admin.CanRead(tt.topic) != tt.adminRead || admin.CanWrite(tt.topic) != tt.adminWrite {
			t.Errorf("admin, %q: CanRead = %v, CanWrite = %v", tt.topic, admin.CanRead(tt.topic), admin.CanWrite(tt.topic))
		}
		if zero.CanRead(tt.topic) || zero.CanWrite(tt.topic) || nilGrant.CanRead(tt.topic) || nilGrant.CanWrite(tt.topic) {
			t.Errorf("a zero or nil grant allows %q", tt.topic)
		}
	}
	if !slices.Equal(read, []string{"b", "$sys", "a", "b", "", "+", "é"}) {
		t.Errorf("the caller's slice was changed: %q", read)
	}
	read[2] = "z"
	if !g.CanRead("a") || g.CanRead("z") {
		t.Error("the grant shares the caller's slice")
	}
}
