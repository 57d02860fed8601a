//go:build linux

package fault_test

import (
	"fmt"
	"net/url"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
)

// natsServer is one of a cluster of real NATS servers in this process, at a port
// that it keeps when it is started again.
type natsServer struct {
	t       testing.TB
	addr    string
	options server.Options
	s       *server.Server // owned by the test's goroutine; nil while it is stopped
}

// newNATS starts a cluster of NATS servers, which keep on the disk what they
// acknowledge, and tell nobody of one another's addresses. By each of the routes one
// of them is reached by the others.
func newNATS(t testing.TB, count int) (servers []*natsServer, routes []*proxy) {
	t.Helper()
	var urls []*url.URL
	for i := range count {
		s := &natsServer{t: t}
		var port int
		s.addr, port = newAddress(t)
		behind, routePort := newAddress(t)
		route := newProxy(t, behind)
		routes = append(routes, route)
		urls = append(urls, &url.URL{Scheme: "nats", Host: route.addr()})
		s.options = server.Options{
			ServerName: fmt.Sprint("nats", i), Host: "127.0.0.1", Port: port,
			JetStream: true, StoreDir: t.TempDir(), SyncAlways: true,
			Cluster: server.ClusterOpts{Name: "fault", Host: "127.0.0.1", Port: routePort, Advertise: route.addr(), NoAdvertise: true},
			NoLog:   true, NoSigs: true,
		}
		servers = append(servers, s)
	}
	for _, s := range servers {
		s.options.Routes = urls
		s.start()
		t.Cleanup(s.stop)
	}
	if !within(patience, func() bool {
		for _, s := range servers {
			if s.s.JetStreamIsLeader() && len(s.s.JetStreamClusterPeers()) == count {
				return true
			}
		}
		return false
	}) {
		t.Fatalf("the NATS servers have no leader after %v", patience)
	}
	return servers, routes
}

func (n *natsServer) start() {
	n.t.Helper()
	o := n.options
	s, err := server.NewServer(&o)
	if err != nil {
		n.t.Fatal(err)
	}
	s.Start()
	n.s = s
	// It answers clients long before it has found the others.
	if !s.ReadyForConnections(patience) {
		n.t.Fatalf("%s takes no connections after %v", o.ServerName, patience)
	}
}

func (n *natsServer) stop() {
	if n.s != nil {
		n.s.Shutdown()
		n.s.WaitForShutdown()
		n.s = nil
	}
}
