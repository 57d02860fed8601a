//go:build linux

package fault_test

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"pubsub/internal/testkit"
)

// natsConfig is the variable that makes this program a NATS server: its
// configuration file.
const natsConfig = "PUBSUB_FAULT_NATS_CONFIG"

// serveNATS is the process of a NATS server. It ends by a signal.
func serveNATS(config string) error {
	o, err := server.ProcessConfigFile(config)
	if err != nil {
		return err
	}
	o.NoLog = true
	s, err := server.NewServer(o)
	if err != nil {
		return err
	}
	s.Start()
	s.WaitForShutdown()
	return nil
}

// natsServer is one of a cluster of real NATS servers, at a port that it keeps when
// it is started again. It is a process of its own, so that it can be killed.
type natsServer struct {
	// immutable
	t       testing.TB
	name    string
	addr    string
	monitor string // where it answers for itself, host and port
	config  string // file

	cmd *exec.Cmd // owned by the test's goroutine; nil while it is stopped
}

// routes are the links between NATS servers, by who connects to whom; nil from a
// server to itself.
type routes [][]*testkit.Proxy

// of returns those by which a server and the others reach each other.
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

// all returns all of them.
func (r routes) all() (links []*testkit.Proxy) {
	for i, from := range r {
		links = append(links, slices.Delete(slices.Clone(from), i, i+1)...)
	}
	return links
}

// newNATS starts a cluster of NATS servers, which keep on the disk what they
// acknowledge, and tell nobody of one another's addresses.
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
		s := &natsServer{t: t, name: fmt.Sprint("nats", i), addr: testkit.FreeAddress(t), monitor: testkit.FreeAddress(t)}
		dir := t.TempDir()
		s.config = filepath.Join(dir, "nats.conf")
		// What they advertise to one another is nobody's address: there is no way
		// past the proxies.
		config := fmt.Sprintf(`
			server_name: %s
			listen: %s
			http: %s
			jetstream { store_dir: %q, sync_interval: always }
			cluster { name: fault, listen: %s, advertise: "127.0.0.1:1", no_advertise: true, routes: [%s] }`,
			s.name, s.addr, s.monitor, dir, listen[i], strings.Join(urls, ", "))
		if err := os.WriteFile(s.config, []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
		servers = append(servers, s)
	}
	for _, s := range servers {
		s.start()
		t.Cleanup(s.kill)
	}
	if !testkit.Within(testkit.Patience, func() bool {
		return slices.ContainsFunc(servers, func(s *natsServer) bool { return s.leads(count) })
	}) {
		t.Fatalf("the NATS servers have not found one another after %v", testkit.Patience)
	}
	http.DefaultClient.CloseIdleConnections()
	return servers, between
}

// start starts a process and returns once it takes connections. It does so long
// before it has found the others.
func (n *natsServer) start() {
	n.t.Helper()
	self, err := os.Executable()
	if err != nil {
		n.t.Fatal(err)
	}
	n.cmd = exec.Command(self)
	n.cmd.Env = append(os.Environ(), natsConfig+"="+n.config)
	n.cmd.Stderr = os.Stderr
	n.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := n.cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	if !testkit.Within(testkit.Patience, func() bool {
		nc, err := net.Dial("tcp", n.addr)
		if err == nil {
			nc.Close()
		}
		return err == nil
	}) {
		n.t.Fatalf("%s takes no connections after %v", n.name, testkit.Patience)
	}
}

// leads reports whether it is the leader of a cluster of count servers, and has all
// of them with it.
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
	there := 1
	for _, r := range info.Meta.Replicas {
		if r.Current && !r.Offline {
			there++
		}
	}
	return there == count
}

// stop has the process end in good order.
func (n *natsServer) stop() { n.end(syscall.SIGTERM) }

// kill ends the process at once.
func (n *natsServer) kill() { n.end(syscall.SIGKILL) }

func (n *natsServer) end(by syscall.Signal) {
	if n.cmd == nil {
		return
	}
	if err := n.cmd.Process.Signal(by); err != nil {
		n.t.Errorf("%s has ended by itself: %v", n.name, err)
	}
	n.cmd.Process.Signal(syscall.SIGCONT) // it may hang
	n.cmd.Wait()
	n.cmd = nil
}
