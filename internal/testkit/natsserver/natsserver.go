// Package natsserver runs real NATS servers for tests: in the test's process
// ([Server]), or as processes of their own, which can be killed ([Start]).
package natsserver

import (
	"fmt"
	"net"
	"strconv"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"pubsub/internal/testkit"
)

// Server is a NATS server in this process, on a loopback port that it keeps when it is
// started again.
type Server struct {
	Options server.Options
	// Running is nil while the server is stopped.
	Running *server.Server
}

// New returns a server that is not running yet. It has JetStream, whose files are in dir,
// and syncs every write. change changes its options.
func New(dir string, change ...func(*server.Options)) (*Server, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	s := &Server{Options: server.Options{
		Host: "127.0.0.1", Port: port, JetStream: true, StoreDir: dir, SyncAlways: true, NoLog: true, NoSigs: true,
	}}
	for _, c := range change {
		c(&s.Options)
	}
	return s, nil
}

// Run starts a server and stops it at the end of the test.
func Run(t testing.TB, change ...func(*server.Options)) *Server {
	t.Helper()
	s, err := New(t.TempDir(), change...)
	if err != nil {
		t.Fatal(err)
	}
	s.MustStart(t)
	t.Cleanup(s.Stop)
	return s
}

// MustStart is Start for a test, which fails if the server does not start.
func (s *Server) MustStart(t testing.TB) {
	t.Helper()
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
}

// Start starts the server and waits until it accepts connections.
func (s *Server) Start() error {
	o := s.Options
	running, err := server.NewServer(&o)
	if err != nil {
		return err
	}
	running.Start()
	s.Running = running
	if !running.ReadyForConnections(testkit.Patience) {
		return fmt.Errorf("the NATS server does not start within %v", testkit.Patience)
	}
	return nil
}

// Stop shuts the server down. It may be started again.
func (s *Server) Stop() {
	if s.Running != nil {
		s.Running.Shutdown()
		s.Running.WaitForShutdown()
		s.Running = nil
	}
}

// Addr returns the host and port where the server listens for clients.
func (s *Server) Addr() string { return net.JoinHostPort(s.Options.Host, strconv.Itoa(s.Options.Port)) }

// URL returns the URL for clients.
func (s *Server) URL() string { return "nats://" + s.Addr() }

func freePort() (int, error) {
	addr, err := testkit.FindAddress()
	if err != nil {
		return 0, err
	}
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(port)
}
