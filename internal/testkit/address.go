package testkit

import (
	"fmt"
	"math/rand/v2"
	"net"
	"sync/atomic"
	"testing"
)

// lastPort starts at random, so that test binaries that run at the same time do not
// choose the same ports.
var lastPort atomic.Uint32

func init() { lastPort.Store(rand.Uint32()) }

// FreeAddress returns a loopback address on which no process listens. It stays free
// while its listener is stopped, because it is below the ports that Linux gives to
// outgoing connections (ip(7), ip_local_port_range).
func FreeAddress(t testing.TB) string {
	t.Helper()
	addr, err := FindAddress()
	if err != nil {
		t.Fatal(err)
	}
	return addr
}

// FindAddress is FreeAddress without a test.
func FindAddress() (addr string, err error) {
	for range 1000 {
		addr = fmt.Sprint("127.0.0.1:", 12_000+lastPort.Add(1)%20_000)
		var l net.Listener
		if l, err = net.Listen("tcp", addr); err == nil {
			l.Close()
			return addr, nil
		}
	}
	return "", fmt.Errorf("no free port from 12000 to 31999: %w", err)
}
