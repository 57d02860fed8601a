package nats

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"pubsub"
	"pubsub/internal/backplane/backplanetest"
)

// TestMain looks for goroutines that were left behind by this package or by the
// client library. Those of NATS servers are none of ours: one that is stopped while
// it makes a stream leaves some.
func TestMain(m *testing.M) {
	code := m.Run()
	if left := leftBehind(100); code == 0 && left != "" {
		fmt.Fprintf(os.Stderr, "goroutines are left:\n%s\n", left)
		code = 1
	}
	os.Exit(code)
}

// leftBehind returns the stacks of goroutines that should have ended; they are
// looked for so many times, while they may.
func leftBehind(times int) (left string) {
	for range times {
		left = ""
		b := make([]byte, 16<<20)
		for stack := range strings.SplitSeq(string(b[:runtime.Stack(b, true)]), "\n\n") {
			ours := strings.Contains(stack, "pubsub/internal/") || strings.Contains(stack, "github.com/nats-io/nats.go")
			if ours && !strings.Contains(stack, ".TestMain(") {
				left += stack + "\n\n"
			}
		}
		if left == "" {
			return ""
		}
		time.Sleep(50 * time.Millisecond) // between two looks
	}
	return left
}

// What looks for goroutines finds one.
func TestLeftBehind(t *testing.T) {
	release, started := make(chan struct{}), make(chan struct{})
	go waitFor(release, started)
	<-started
	if left := leftBehind(1); !strings.Contains(left, "nats.waitFor(") {
		t.Errorf("a goroutine that waits is not among %q", left)
	}
	close(release)
}

func waitFor(release <-chan struct{}, started chan<- struct{}) {
	close(started)
	<-release
}

// opener returns a function that opens backplanes on the servers urls: each time
// those of a broker of its own, with a prefix of its own, and each connected
// to another server.
func opener(urls []string) func(t *testing.T, nodes int) []pubsub.Backplane {
	var brokers atomic.Int64
	return func(t *testing.T, nodes int) (bs []pubsub.Backplane) {
		prefix := fmt.Sprint("b", brokers.Add(1))
		for i := range nodes {
			bs = append(bs, open(t, Options{URLs: []string{urls[i%len(urls)]}, Prefix: prefix}))
		}
		return bs
	}
}

func one(open func(t *testing.T, nodes int) []pubsub.Backplane) func(t *testing.T) pubsub.Backplane {
	return func(t *testing.T) pubsub.Backplane { return open(t, 1)[0] }
}

func TestConformance(t *testing.T) {
	open := opener([]string{newServer(t).url()})
	backplanetest.Run(t, one(open))
	t.Run("Nodes", func(t *testing.T) { backplanetest.RunNodes(t, open) })
}

func TestConformanceCluster(t *testing.T) {
	open := opener(newCluster(t, 3).urls())
	backplanetest.Run(t, one(open))
	t.Run("Nodes", func(t *testing.T) { backplanetest.RunNodes(t, open) })
}
