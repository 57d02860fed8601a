package nats

import (
	"fmt"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"

	"pubsub"
	"pubsub/internal/backplane/backplanetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

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
