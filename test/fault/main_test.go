//go:build linux

// Package fault_test injects faults into a whole cluster: three broker nodes, which are
// processes of the real binary, on three real NATS servers, which are processes too, with
// a proxy in each link between them. While publishers publish to 200 topics and followers
// read them, nodes and servers are killed or hang, and links are cut, in an order that a
// seed decides. A [checker] finds the promises that were broken.
//
//	go test ./test/fault -v -run TestFaults -faults.duration 1h -timeout 0
package fault_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"pubsub/internal/testkit"
	"pubsub/internal/testkit/natsserver"
	"pubsub/internal/testkit/process"
)

var (
	seed     = flag.Uint64("seed", rand.Uint64(), "seed of everything random in this run")
	duration = flag.Duration("faults.duration", 0, "how long TestFaults injects faults; 0 for 5 s, or 1 min if long tests run")
)

// scratch is a directory for binaries.
var scratch string

func TestMain(m *testing.M) {
	natsserver.Main()
	flag.Parse()
	if *duration == 0 {
		*duration = 5 * time.Second
		if testkit.Long() {
			*duration = time.Minute
		}
	}
	fmt.Fprintf(os.Stderr, "seed %d (repeat with -seed)\n", *seed)
	goleak.VerifyTestMain(withScratch{m})
}

// withScratch makes the scratch directory before the tests and removes it after them.
type withScratch struct{ *testing.M }

func (m withScratch) Run() int {
	var err error
	if scratch, err = os.MkdirTemp("", "pubsub-fault"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(scratch)
	return m.M.Run()
}

// unchanged returns the binary of the broker as it is in this tree, built once.
var unchanged = sync.OnceValues(func() (string, error) { return build(scratch) })

// build builds the broker into dir, with the race detector if the test has it.
func build(dir string, flags ...string) (string, error) {
	if testkit.Race {
		flags = append(flags, "-race")
	}
	return process.Build(context.Background(), dir, flags...)
}

// newRand returns the random numbers of one part of a run.
func newRand(stream uint64) *rand.Rand { return rand.New(rand.NewPCG(*seed, stream)) }

// pause waits for a random time below d, or until ctx is done.
func pause(ctx context.Context, r *rand.Rand, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(time.Duration(r.Int64N(int64(d)))):
	}
}
