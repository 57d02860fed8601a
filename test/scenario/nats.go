package scenario

import (
	"fmt"
	"hash/fnv"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"pubsub/internal/config"
)

// natsServer is a real NATS server in this process, on a loopback port that it
// keeps when it is started again.
type natsServer struct {
	options server.Options
	s       *server.Server // nil while it is stopped
}

// newNATS returns a NATS server that is not running yet, with the port that it will
// have, and that keeps its files in dir.
func newNATS(dir string) (*natsServer, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer l.Close()
	return &natsServer{options: server.Options{
		Host: "127.0.0.1", Port: l.Addr().(*net.TCPAddr).Port,
		JetStream: true, StoreDir: dir, MaxPayload: 20 << 20, NoLog: true, NoSigs: true,
	}}, nil
}

func (n *natsServer) url() string { return fmt.Sprintf("nats://127.0.0.1:%d", n.options.Port) }

// run starts the server and waits until it takes connections.
func (n *natsServer) run() error {
	o := n.options
	s, err := server.NewServer(&o)
	if err != nil {
		return err
	}
	s.Start()
	n.s = s
	if !s.ReadyForConnections(patience) {
		return fmt.Errorf("the NATS server does not start")
	}
	return nil
}

func (n *natsServer) stop() {
	if n.s != nil {
		n.s.Shutdown()
		n.s.WaitForShutdown()
		n.s = nil
	}
}

// startNATS starts a NATS server that the test has for itself.
func startNATS(t testing.TB) *natsServer {
	t.Helper()
	n, err := newNATS(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	n.start(t)
	t.Cleanup(n.stop)
	return n
}

func (n *natsServer) start(t testing.TB) {
	t.Helper()
	if err := n.run(); err != nil {
		t.Fatal(err)
	}
}

// shared returns the NATS server of all tests that do not need one for themselves.
// It runs from when it is first asked for.
var shared = sync.OnceValue(func() *natsServer {
	dir, err := os.MkdirTemp("", "scenario")
	if err != nil {
		panic(err)
	}
	n, err := newNATS(dir)
	if err == nil {
		err = n.run()
	}
	if err != nil {
		panic(err)
	}
	stopShared = func() {
		n.stop()
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
func ownBroker(s *natsServer) func(*config.Config) {
	prefix := fmt.Sprint("b", brokers.Add(1))
	return func(c *config.Config) {
		c.InMemory, c.NATS, c.NATSPrefix = false, []string{s.url()}, config.Prefix(prefix)
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
