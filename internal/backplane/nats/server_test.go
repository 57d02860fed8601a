package nats

import (
	"fmt"
	"net"
	"net/url"
	"strconv"
	"testing"
	"time"

	"pubsub/internal/testkit"

	"github.com/nats-io/nats-server/v2/server"
)

// natsServer is a NATS server in this process, on loopback ports that it keeps when it is
// started again.
type natsServer struct {
	t       testing.TB
	options server.Options
	s       *server.Server // nil while it is stopped
}

// freePort returns a port on which nothing listens.
func freePort(t testing.TB) int {
	t.Helper()
	_, port, err := net.SplitHostPort(testkit.FreeAddress(t))
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// serverOptions returns the options of a server with JetStream and nothing else.
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

// withoutSync lets a server acknowledge messages that are not on its disk yet.
func withoutSync(o *server.Options) { o.SyncAlways = false }

// newServer starts a server, after change has changed its options.
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

// start starts a stopped server and waits until it accepts connections.
func (s *natsServer) start() {
	s.t.Helper()
	o := s.options
	ns, err := server.NewServer(&o)
	if err != nil {
		s.t.Fatal(err)
	}
	ns.Start()
	if !ns.ReadyForConnections(patience) {
		s.t.Fatal("the NATS server does not start")
	}
	s.s = ns
}

// stop shuts the server down.
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

// newProxy starts a proxy between nodes and s.
func newProxy(t testing.TB, s *natsServer) *testkit.Proxy {
	t.Helper()
	return testkit.NewProxy(t, net.JoinHostPort(s.options.Host, strconv.Itoa(s.options.Port)))
}

// natsURL returns the URL of the server behind p.
func natsURL(p *testkit.Proxy) string { return "nats://" + p.Addr() }

// natsCluster is a cluster of servers.
type natsCluster struct {
	t       testing.TB
	servers []*natsServer
}

// newCluster starts a cluster of n servers and waits for its leader. change changes the options
// of each server first.
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
	testkit.Eventually(t, "a leader of the cluster", func() bool {
		for _, s := range c.servers {
			if s.s.JetStreamIsLeader() && len(s.s.JetStreamClusterPeers()) == n {
				return true
			}
		}
		return false
	})
	return c
}

// newSeverableCluster is newCluster with a proxy on each route: routes[i][j] is the proxy by
// which server i connects to server j.
func newSeverableCluster(t testing.TB, n int) (c *natsCluster, routes [][]*testkit.Proxy) {
	t.Helper()
	i := -1
	c = newCluster(t, n, func(o *server.Options) {
		i++
		o.Cluster.NoAdvertise = true
		if routes == nil {
			for range n {
				var from []*testkit.Proxy
				for _, r := range o.Routes {
					from = append(from, testkit.NewProxy(t, r.Host))
				}
				routes = append(routes, from)
			}
		}
		o.Routes = nil
		for j, p := range routes[i] {
			if j != i {
				o.Routes = append(o.Routes, &url.URL{Scheme: "nats", Host: p.Addr()})
			}
		}
		o.Cluster.Advertise = "127.0.0.1:1" // no server can bypass the proxies
	})
	return c, routes
}

// sever cuts the routes between server i and the others, or restores them.
func sever(routes [][]*testkit.Proxy, i int, cut bool) {
	for j := range routes {
		if i != j {
			routes[i][j].SetCut(cut)
			routes[j][i].SetCut(cut)
		}
	}
}

func (c *natsCluster) urls() []string {
	var urls []string
	for _, s := range c.servers {
		urls = append(urls, s.url())
	}
	return urls
}

// leader waits for the leader of a stream and returns it.
func (c *natsCluster) leader(stream string) *natsServer {
	c.t.Helper()
	var leader *natsServer
	testkit.Eventually(c.t, "a leader of stream "+stream, func() bool {
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

// eventuallyWithin waits for a condition that must hold within a documented time.
func eventuallyWithin(t testing.TB, d time.Duration, what string, ok func() bool) {
	t.Helper()
	if !testkit.Within(d, ok) {
		t.Fatalf("%s: not within %v", what, d)
	}
}
