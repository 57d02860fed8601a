//go:build linux

package fault_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"pubsub/internal/testkit"
	"pubsub/internal/testkit/natsserver"
	"pubsub/internal/testkit/process"
)

// natsServer is one of a cluster of NATS servers, at a port that it keeps when it is
// started again. It is a process of its own, so that it can be killed.
type natsServer struct {
	// immutable
	t       testing.TB
	name    string
	addr    string
	monitor string // where it serves its own state, host and port
	dir     string // of its files
	config  string

	process *process.Process // owned by the test's goroutine; nil while it is stopped
}

// routes[i][j] is the link by which NATS server i connects to server j. routes[i][i] is nil.
type routes [][]*testkit.Proxy

// of returns the links between a server and the others.
func (r routes) of(server int) (links []*testkit.Proxy) {
	for i, from := range r {
		for j, l := range from {
			if i != j && (i == server || j == server) {
				links = append(links, l)
			}
		}
	}
	return links
}

// all returns all links.
func (r routes) all() (links []*testkit.Proxy) {
	for i, from := range r {
		links = append(links, slices.Delete(slices.Clone(from), i, i+1)...)
	}
	return links
}

// newNATS starts a cluster of NATS servers, which sync everything that they acknowledge.
func newNATS(t testing.TB, count int) (servers []*natsServer, between routes) {
	t.Helper()
	var listen []string
	for range count {
		listen = append(listen, testkit.FreeAddress(t))
	}
	for i := range count {
		links, urls := make([]*testkit.Proxy, count), []string(nil)
		for j := range count {
			if j != i {
				links[j] = testkit.NewProxy(t, listen[j])
				urls = append(urls, "nats://"+links[j].Addr())
			}
		}
		between = append(between, links)
		s := &natsServer{t: t, name: fmt.Sprint("nats", i), addr: testkit.FreeAddress(t), monitor: testkit.FreeAddress(t), dir: t.TempDir()}
		// The servers advertise an address that does not exist, so that none finds a
		// way past the proxies.
		s.config = fmt.Sprintf(`
			server_name: %s
			listen: %s
			http: %s
			jetstream { store_dir: %q, sync_interval: always }
			cluster { name: fault, listen: %s, advertise: "127.0.0.1:1", no_advertise: true, routes: [%s] }`,
			s.name, s.addr, s.monitor, s.dir, listen[i], strings.Join(urls, ", "))
		servers = append(servers, s)
	}
	for _, s := range servers {
		s.start()
		t.Cleanup(s.kill)
	}
	testkit.Eventually(t, "the NATS servers find one another", func() bool {
		return slices.ContainsFunc(servers, func(s *natsServer) bool { return s.leads(count) })
	})
	http.DefaultClient.CloseIdleConnections()
	return servers, between
}

// start starts a process and returns once it accepts connections.
func (n *natsServer) start() {
	n.t.Helper()
	var err error
	if n.process, err = natsserver.Start(context.Background(), n.dir, n.config, n.addr); err != nil {
		n.t.Fatalf("%s: %v", n.name, err)
	}
}

// leads reports whether the server is the leader of a cluster of count servers, all of
// which are connected.
func (n *natsServer) leads(count int) bool {
	resp, err := http.Get("http://" + n.monitor + "/jsz")
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	var info server.JSInfo
	if json.NewDecoder(resp.Body).Decode(&info) != nil || info.Meta == nil || info.Meta.Leader != n.name {
		return false
	}
	connected := 1
	for _, r := range info.Meta.Replicas {
		if r.Current && !r.Offline {
			connected++
		}
	}
	return connected == count
}

// stop ends the process by SIGTERM, so that it shuts down.
func (n *natsServer) stop() { n.end(syscall.SIGTERM) }

// kill ends the process at once.
func (n *natsServer) kill() { n.end(syscall.SIGKILL) }

func (n *natsServer) end(by syscall.Signal) {
	if n.process == nil {
		return
	}
	if err := n.process.Signal(by); err != nil {
		n.t.Errorf("%s has ended by itself: %v", n.name, err)
	}
	n.process.Signal(syscall.SIGCONT) // it may hang
	n.process.Wait()
	n.process = nil
}
