package scenario

import (
	"fmt"
	"hash/fnv"
	"os"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"pubsub/internal/config"
	"pubsub/internal/testkit/natsserver"
)

// newNATS returns a NATS server that is not running yet, with its files in dir.
func newNATS(dir string) (*natsserver.Server, error) { return natsserver.New(dir, natsOptions) }

// startNATS starts a NATS server for one test.
func startNATS(t testing.TB) *natsserver.Server {
	t.Helper()
	return natsserver.Run(t, natsOptions)
}

func natsOptions(o *server.Options) {
	o.MaxPayload, o.SyncAlways = 20<<20, false
}

// shared returns the NATS server of all tests that do not need one of their own. It starts
// on the first call.
var shared = sync.OnceValue(func() *natsserver.Server {
	dir, err := os.MkdirTemp("", "scenario")
	if err != nil {
		panic(err)
	}
	n, err := newNATS(dir)
	if err == nil {
		err = n.Start()
	}
	if err != nil {
		panic(err)
	}
	stopShared = func() {
		n.Stop()
		os.RemoveAll(dir)
	}
	return n
})

var stopShared = func() {} // replaced when it runs

// withSharedNATS stops the shared server after the tests.
type withSharedNATS struct{ *testing.M }

func (m withSharedNATS) Run() int {
	defer func() { stopShared() }()
	return m.M.Run()
}

// brokers counts the brokers that have got a prefix of their own.
var brokers atomic.Int64

// ownBroker returns settings that make nodes one broker on a NATS server, which shares nothing
// with other brokers there.
func ownBroker(s *natsserver.Server) func(*config.Config) {
	prefix := fmt.Sprint("b", brokers.Add(1))
	return func(c *config.Config) {
		c.InMemory, c.NATS, c.NATSPrefix = false, []string{s.URL()}, config.Prefix(prefix)
	}
}

// toNATS makes a node store messages in NATS rather than in memory or in its data directory. Nodes
// with the same data directory become one broker.
func toNATS(c *config.Config) {
	set := ownBroker(shared())
	if !c.InMemory {
		h := fnv.New64a()
		h.Write([]byte(c.DataDir))
		c.DataDir = config.Default().DataDir
		set(c)
		c.NATSPrefix = config.Prefix(fmt.Sprintf("d%x", h.Sum64()))
		return
	}
	set(c)
}
