package nats

import (
	"fmt"
	"net"
	"net/url"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// natsServer is a real NATS server in this process, on loopback ports that it
// keeps when it is started again.
type natsServer struct {
	t       testing.TB
	options server.Options
	s       *server.Server // nil while it is stopped
}

// freePort returns a port that nobody listens on.
func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// serverOptions are those of a server with JetStream and nothing else.
func serverOptions(t testing.TB) server.Options {
	return server.Options{
		Host:       "127.0.0.1",
		Port:       freePort(t),
		JetStream:  true,
		StoreDir:   t.TempDir(),
		SyncAlways: true,
		NoLog:      true,
		NoSigs:     true,
		MaxPayload: 1 << 20,
	}
}

// newServer returns a running server; change changes its options before.
func newServer(t testing.TB, change ...func(*server.Options)) *natsServer {
	t.Helper()
	s := &natsServer{t: t, options: serverOptions(t)}
	for _, c := range change {
		c(&s.options)
	}
	s.start()
	t.Cleanup(s.stop)
	return s
}

// start starts a stopped server and waits until it takes connections.
func (s *natsServer) start() {
	s.t.Helper()
	o := s.options
	ns, err := server.NewServer(&o)
	if err != nil {
		s.t.Fatal(err)
	}
	ns.Start()
	if !ns.ReadyForConnections(30 * time.Second) {
		s.t.Fatal("the NATS server does not start")
	}
	s.s = ns
}

// stop stops the server, in order.
func (s *natsServer) stop() {
	if s.s != nil {
		s.s.Shutdown()
		s.s.WaitForShutdown()
		s.s = nil
	}
}

func (s *natsServer) url() string {
	return "nats://127.0.0.1:" + strconv.Itoa(s.options.Port)
}

// natsCluster is a cluster of real servers.
type natsCluster struct {
	t       testing.TB
	servers []*natsServer
}

// newCluster returns a running cluster of n servers with a leader; change changes
// the options of each before.
func newCluster(t testing.TB, n int, change ...func(*server.Options)) *natsCluster {
	t.Helper()
	c := &natsCluster{t: t}
	var ports []int
	var routes []*url.URL
	for range n {
		p := freePort(t)
		ports = append(ports, p)
		routes = append(routes, &url.URL{Scheme: "nats", Host: "127.0.0.1:" + strconv.Itoa(p)})
	}
	for i := range n {
		s := &natsServer{t: t, options: serverOptions(t)}
		s.options.ServerName = fmt.Sprintf("s%d", i)
		s.options.Cluster = server.ClusterOpts{Name: "test", Host: "127.0.0.1", Port: ports[i]}
		s.options.Routes = routes
		for _, c := range change {
			c(&s.options)
		}
		c.servers = append(c.servers, s)
	}
	for _, s := range c.servers {
		o := s.options
		ns, err := server.NewServer(&o)
		if err != nil {
			t.Fatal(err)
		}
		ns.Start()
		s.s = ns
		t.Cleanup(s.stop)
	}
	eventually(t, "a leader of the cluster", func() bool {
		for _, s := range c.servers {
			if s.s.JetStreamIsLeader() && len(s.s.JetStreamClusterPeers()) == n {
				return true
			}
		}
		return false
	})
	return c
}

func (c *natsCluster) urls() []string {
	var urls []string
	for _, s := range c.servers {
		urls = append(urls, s.url())
	}
	return urls
}

// leader returns the server that leads a stream.
func (c *natsCluster) leader(stream string) *natsServer {
	c.t.Helper()
	var leader *natsServer
	eventually(c.t, "a leader of stream "+stream, func() bool {
		for _, s := range c.servers {
			if s.s != nil && s.s.JetStreamIsStreamLeader("$G", stream) {
				leader = s
				return true
			}
		}
		return false
	})
	return leader
}

// eventually waits until ok is true.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	if !within(patience, ok) {
		t.Fatalf("%s: not within %v", what, patience)
	}
}

// within waits for at most d until ok is true.
func within(d time.Duration, ok func() bool) bool {
	for deadline := time.Now().Add(d); !ok(); {
		if time.Now().After(deadline) {
			return false
		}
		time.Sleep(10 * time.Millisecond) // between two looks
	}
	return true
}

// open opens a backplane that the test closes. Its calls may take as long as a busy
// machine needs, unless o says otherwise.
func open(t testing.TB, o Options) *Backplane {
	t.Helper()
	if o.Wait == 0 {
		o.Wait = patience
	}
	if o.Events.Error == nil {
		o.Events.Error = func(event string, err error) { t.Logf("backplane: %s: %v", event, err) }
	}
	b, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// withoutSync lets a server acknowledge what is not on its disk yet.
func withoutSync(o *server.Options) { o.SyncAlways = false }
