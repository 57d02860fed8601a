package nats

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"pubsub"
	"pubsub/internal/backplane/backplanetest"
	"pubsub/internal/testkit"
)

var seed = flag.Uint64("seed", rand.Uint64(), "seed of the random numbers in the tests")

// TestMain fails if this package or the client library has leaked a goroutine. NATS servers
// may: one that is stopped while it creates a stream does.
func TestMain(m *testing.M) {
	flag.Parse()
	// Most tests wait for servers and timeouts, so more of them can run than there are CPUs. With
	// the race detector they need the CPUs.
	if parallel := flag.Lookup("test.parallel").Value; !testkit.Race && parallel.String() == fmt.Sprint(runtime.GOMAXPROCS(0)) {
		_ = parallel.Set("6")
	}
	code := m.Run()
	if leaks := leakedGoroutines(100); code == 0 && leaks != "" {
		fmt.Fprintf(os.Stderr, "leaked goroutines:\n%s\n", leaks)
		code = 1
	}
	os.Exit(code)
}

// leakedGoroutines returns the stacks of goroutines that should have ended. It looks for them up
// to attempts times, because they may be about to end.
func leakedGoroutines(attempts int) (leaks string) {
	for range attempts {
		leaks = ""
		b := make([]byte, 16<<20)
		for stack := range strings.SplitSeq(string(b[:runtime.Stack(b, true)]), "\n\n") {
			ours := strings.Contains(stack, "pubsub/internal/") || strings.Contains(stack, "github.com/nats-io/nats.go")
			if ours && !strings.Contains(stack, ".TestMain(") {
				leaks += stack + "\n\n"
			}
		}
		if leaks == "" {
			return ""
		}
		time.Sleep(50 * time.Millisecond) // between two polls
	}
	return leaks
}

// leakedGoroutines finds a goroutine that waits.
func TestLeakedGoroutines(t *testing.T) {
	release, started := make(chan struct{}), make(chan struct{})
	go waitFor(release, started)
	<-started
	if leaks := leakedGoroutines(1); !strings.Contains(leaks, "nats.waitFor(") {
		t.Errorf("the waiting goroutine is not among %q", leaks)
	}
	close(release)
}

func waitFor(release <-chan struct{}, started chan<- struct{}) {
	close(started)
	<-release
}

// conform runs the conformance tests on the servers urls. Each test has a broker of its own,
// with its own prefix and with each node connected to another server.
func conform(t *testing.T, urls []string) {
	var brokers atomic.Int64
	openNodes := func(t *testing.T, nodes int) (bs []pubsub.Backplane) {
		prefix := fmt.Sprint("b", brokers.Add(1))
		for i := range nodes {
			bs = append(bs, open(t, Options{URLs: []string{urls[i%len(urls)]}, Prefix: prefix}))
		}
		return bs
	}
	backplanetest.Run(t, func(t *testing.T) pubsub.Backplane { return openNodes(t, 1)[0] })
	t.Run("Nodes", func(t *testing.T) { backplanetest.RunNodes(t, openNodes) })
}

func TestConformance(t *testing.T) {
	t.Parallel()
	conform(t, []string{newServer(t).url()})
}

func TestConformanceCluster(t *testing.T) {
	t.Parallel()
	conform(t, newCluster(t, 3, withoutSync).urls())
}
