//go:build linux

package fault_test

import (
	"fmt"
	"math/rand/v2"
	"net"
	"sync/atomic"
	"testing"
)

// lastPort is counted up from a place where hardly anybody else is.
var lastPort atomic.Uint32

func init() { lastPort.Store(rand.Uint32()) }

// newAddress returns a loopback address where nobody listens. It stays so while who
// listens there later is stopped: it is below the ports that Linux gives to
// connections that begin (ip(7), ip_local_port_range).
func newAddress(t testing.TB) string {
	t.Helper()
	for range 1000 {
		addr := fmt.Sprint("127.0.0.1:", 12_000+lastPort.Add(1)%20_000)
		if l, err := net.Listen("tcp", addr); err == nil {
			l.Close()
			return addr
		}
	}
	t.Fatal("there is no free port from 12000 to 31999")
	return ""
}
