// Package scenario tests whole broker nodes over TCP, from outside: each scenario starts nodes
// in this process, connects to them as clients do and checks the bytes that come back.
//
// A scenario is an exported function named Test…; list.go lists them. Each package below this
// one is a mode: it runs the same scenarios with nodes that hold connections, or store messages,
// in another way.
//
// The clients are the tests' own, so that exact bytes can be asserted and a mistake is not made
// twice: they share no code with the server but the MQTT packets of internal/mqtt, which test/e2e
// checks against independent clients.
package scenario

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"pubsub/internal/testkit"
)

// Mode is how the nodes of a test process work.
type Mode struct {
	Holder string // of connections: "auto" (parked, where the system can) or "portable"
	IO     string // how parked connections are written to: "epoll" or "uring"
	NATS   bool   // store messages in NATS, in place of memory or a data directory
	// MeasureLong leaves scenarios that measure the process to long runs.
	MeasureLong bool
}

// mode is set by Main and never changes.
var mode Mode

var seed = flag.Uint64("seed", rand.Uint64(), "seed of everything random in this run")

// Main is the TestMain of a package that runs scenarios in mode m.
func Main(tests *testing.M, m Mode) {
	mode = m
	// Scenarios wait more than they compute, but for the race detector. An explicit -parallel
	// overrides this.
	if !testkit.Race {
		if err := flag.Set("test.parallel", strconv.Itoa(4*runtime.GOMAXPROCS(0))); err != nil {
			panic(err)
		}
	}
	flag.Parse()
	fmt.Fprintf(os.Stderr, "seed %d (repeat with -seed)\n", *seed)
	goleak.VerifyTestMain(withSharedNATS{tests})
}

// Run runs the scenarios of one node, each as a subtest that has the name of its function.
func Run(t *testing.T) {
	alone := measured
	if !mode.NATS {
		alone = slices.Concat(measured, measuredWithoutNATS)
	}
	for _, f := range alone {
		t.Run(name(f), func(t *testing.T) {
			if mode.MeasureLong {
				testkit.SkipUnlessLong(t)
			}
			f(t)
		})
	}
	runParallel(t, scenarios)
}

// RunClusters runs the scenarios of several nodes.
func RunClusters(t *testing.T) { runParallel(t, clusterScenarios) }

func runParallel(t *testing.T, scenarios []func(t *testing.T)) {
	for _, f := range scenarios {
		t.Run(name(f), func(t *testing.T) {
			t.Parallel()
			f(t)
		})
	}
}

// name returns the name of a function without its package.
func name(f func(t *testing.T)) string {
	full := runtime.FuncForPC(reflect.ValueOf(f).Pointer()).Name()
	return full[strings.LastIndexByte(full, '.')+1:]
}

// patience bounds every wait for an event. No test asserts how long anything takes, only that
// it happens.
const patience = 30 * time.Second

// newRand returns the random numbers of one test.
func newRand(stream uint64) *rand.Rand { return rand.New(rand.NewPCG(*seed, stream)) }

// dial connects to a node.
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
