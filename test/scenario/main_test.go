// Package scenario_test holds the sentences of the wire contract against whole
// broker nodes, over TCP, from outside: each test starts nodes in this process,
// connects to them as clients do and looks at the bytes that come back.
//
// The clients are the tests' own, so that exact bytes can be asserted and so that
// a mistake is not made twice: they share no code with the server but the MQTT
// packets of internal/mqtt, which test/e2e holds against independent clients.
package scenario_test

import (
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// patience bounds every wait for something that is to happen. Nothing is asserted
// about how long things take, beyond that they come.
const patience = 30 * time.Second

var (
	seed     = flag.Uint64("seed", rand.Uint64(), "of everything random in this run")
	holder   = flag.String("holder", "", "who holds connections: auto or portable")
	ioMode   = flag.String("io", "epoll", "how parked connections are written to: epoll or uring")
	overNATS = flag.Bool("nats", false, "keep in NATS what is kept in memory or in a data directory otherwise")
)

// TestMain runs everything four times, unless a flag says how: with parked
// connections, where the system has them, written to in both ways; with a goroutine
// for each; and with nodes that keep everything in NATS. TestCluster... are of
// several nodes over NATS anyway, and run once; TestChurn,
// TestMemory and TestSubscribeToManyLargeRetained measure a process that has no NATS server in it.
func TestMain(m *testing.M) {
	flag.Parse()
	fmt.Fprintf(os.Stderr, "seed %d (repeat with -seed)\n", *seed)
	all := *holder == "" && !*overNATS
	if *holder == "" {
		*holder = "auto"
	}
	goleak.VerifyTestMain(withShared{m}, goleak.Cleanup(func(code int) {
		if all && code == 0 {
			code = again("-holder=portable", skip("^TestCluster"))
		}
		if all && code == 0 {
			code = again("-nats", skip("^TestCluster|^TestChurn|^TestMemory$|^TestSubscribeToManyLargeRetained$"))
		}
		if all && code == 0 {
			code = again("-holder=auto", "-io=uring", skip("^TestCluster"))
		}
		os.Exit(code)
	}))
}

// skip is the argument that leaves tests out, beside those that are left out anyway.
func skip(tests string) string {
	if s := flag.Lookup("test.skip").Value.String(); s != "" {
		tests += "|" + s
	}
	return "-test.skip=" + tests
}

// again runs this test binary once more, with more arguments.
func again(more ...string) int {
	args := slices.DeleteFunc(slices.Clone(os.Args[1:]), func(a string) bool {
		return strings.HasPrefix(a, "-test.testlogfile") // it is the first run's
	})
	cmd := exec.Command(os.Args[0], append(args, more...)...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, more, err)
		return 1
	}
	return 0
}

// newRand returns the random numbers of one test.
func newRand(stream uint64) *rand.Rand { return rand.New(rand.NewPCG(*seed, stream)) }

// dial connects to a node. With a small receive buffer the kernel takes little
// for a client that does not read.
func dial(t testing.TB, addr string) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	deadline(c)
	return c.(*net.TCPConn)
}

func deadline(c net.Conn) { c.SetDeadline(time.Now().Add(patience)) }

// readAll reads until the other side ends the connection.
func readAll(t testing.TB, r io.Reader) string {
	t.Helper()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatalf("reading to the end: %v, after %.300q", err, b)
	}
	return string(b)
}
