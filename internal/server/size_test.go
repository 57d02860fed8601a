package server

import (
	"testing"
	"unsafe"

	"pubsub"
)

// There may be a million of each: the bounds are size classes of the allocator,
// which puts 8 bytes in front of what has pointers and takes more than 512.
func TestConnectionsAreSmall(t *testing.T) {
	for _, c := range []struct {
		name      string
		size, max uintptr
	}{
		{"sseStream", unsafe.Sizeof(sseStream{}), 416},
		{"webSocketConn", unsafe.Sizeof(webSocketConn{}), 576 - 8},
		{"pubsub.Grant", unsafe.Sizeof(pubsub.Grant{}), 112},
	} {
		t.Logf("%s: %d bytes", c.name, c.size)
		if c.size > c.max {
			t.Errorf("%s takes %d bytes, more than %d", c.name, c.size, c.max)
		}
	}
}
