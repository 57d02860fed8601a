//go:build linux

// Package fault_test has a whole cluster go wrong: three broker nodes, processes of
// the real binary, on three real NATS servers, processes too, with a proxy in each
// link between them. While publishers publish to 200 topics and followers read them,
// nodes and servers are killed or hang, and links are cut, in an order that a seed
// decides. What publishers were told and what followers were given is the history, and
// the history is checked against the contract: see [history].
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
	"pubsub/internal/testkit/process"
)

var (
	seed     = flag.Uint64("seed", rand.Uint64(), "of everything random in this run")
	duration = flag.Duration("faults.duration", 0, "how long TestFaults injects faults; 0 for 5 s, or 1 min if long tests run")
)

// scratch is a directory for binaries and logs.
var scratch string

func TestMain(m *testing.M) {
	if config := os.Getenv(natsConfig); config != "" {
		if err := serveNATS(config); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	flag.Parse()
	if *duration == 0 {
		*duration = 5 * time.Second
		if testkit.Long() {
			*duration = time.Minute
		}
	}
	fmt.Fprintf(os.Stderr, "seed %d (repeat with -seed)\n", *seed)
	goleak.VerifyTestMain(inScratch{m})
}

// inScratch has the scratch directory made before the tests, and removed after them.
type inScratch struct{ *testing.M }

func (m inScratch) Run() int {
	var err error
	if scratch, err = os.MkdirTemp("", "pubsub-fault"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(scratch)
	return m.M.Run()
}

// asItIs returns the broker, built from this tree once.
var asItIs = sync.OnceValues(func() (string, error) { return build(scratch) })

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
