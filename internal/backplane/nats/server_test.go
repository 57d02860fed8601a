package nats

import (
	"fmt"
	"net/url"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"pubsub/internal/testkit"
	"pubsub/internal/testkit/natsserver"
)

// natsServer is a NATS server of a test.
type natsServer struct {
	*natsserver.Server
	t testing.TB
}

// withoutSync lets a server acknowledge messages that are not on its disk yet.
func withoutSync(o *server.Options) { o.SyncAlways = false }

// newServer starts a server, after change has changed its options.
func newServer(t testing.TB, change ...func(*server.Options)) *natsServer {
	t.Helper()
	s := newStoppedServer(t, change...)
	s.start()
	t.Cleanup(s.stop)
	return s
}

// newStoppedServer returns a server that is not running yet.
func newStoppedServer(t testing.TB, change ...func(*server.Options)) *natsServer {
	t.Helper()
	s, err := natsserver.New(t.TempDir(), append([]func(*server.Options){func(o *server.Options) { o.MaxPayload = 1 << 20 }}, change...)...)
	if err != nil {
		t.Fatal(err)
	}
	return &natsServer{s, t}
}

// start starts a stopped server and waits until it accepts connections.
func (s *natsServer) start() {
	s.t.Helper()
	s.MustStart(s.t)
}

func (s *natsServer) stop() { s.Stop() }

func (s *natsServer) url() string { return s.URL() }

// newProxy starts a proxy between nodes and s.
func newProxy(t testing.TB, s *natsServer) *testkit.Proxy {
	t.Helper()
	return testkit.NewProxy(t, s.Addr())
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
		p := testkit.FreePort(t)
		ports = append(ports, p)
		routes = append(routes, &url.URL{Scheme: "nats", Host: "127.0.0.1:" + strconv.Itoa(p)})
	}
	for i, port := range ports {
		inCluster := func(o *server.Options) {
			o.ServerName = fmt.Sprintf("s%d", i)
			o.Cluster = server.ClusterOpts{Name: "test", Host: "127.0.0.1", Port: port}
			o.Routes = routes
		}
		c.servers = append(c.servers, newStoppedServer(t, append([]func(*server.Options){inCluster}, change...)...))
	}
	for _, s := range c.servers {
		if err := s.Launch(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.stop)
	}
	testkit.Eventually(t, "a leader of the cluster", func() bool {
		for _, s := range c.servers {
			if s.Running.JetStreamIsLeader() && len(s.Running.JetStreamClusterPeers()) == n {
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
			if s.Running != nil && s.Running.JetStreamIsStreamLeader("$G", stream) {
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
