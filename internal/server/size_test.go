package server

import (
	"testing"
	"unsafe"

	"pubsub"
)

// A node may have a million of each. The bounds are size classes of the allocator, which adds
// 8 bytes to objects of more than 512 bytes with pointers.
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
