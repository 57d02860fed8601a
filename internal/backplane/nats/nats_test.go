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

// Each broker of a test has a prefix of its own, so that they share the servers.
func opener(urls []string) func(t *testing.T) pubsub.Backplane {
	var brokers atomic.Int64
	return func(t *testing.T) pubsub.Backplane {
		return open(t, Options{URLs: urls, Prefix: fmt.Sprint("b", brokers.Add(1))})
	}
}

func TestConformance(t *testing.T) {
	backplanetest.Run(t, opener([]string{newServer(t).url()}))
}

func TestConformanceCluster(t *testing.T) {
	backplanetest.Run(t, opener(newCluster(t, 3).urls()))
}
