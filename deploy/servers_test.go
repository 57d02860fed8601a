// Package deploy contains only tests. They use the files of this directory, and the
// instructions of docs/cluster.md, with real NATS servers in this process.
package deploy

import (
	"context"
	"fmt"
	"maps"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	backplane "pubsub/internal/backplane/nats"
	"pubsub/internal/testkit"

	"github.com/nats-io/nats-server/v2/server"
	natsgo "github.com/nats-io/nats.go"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for an event that must occur.
const patience = testkit.Patience

// The passwords of the tests contain characters that configuration files misread without
// quotes.
const (
	nodePassword     = `12345`
	operatorPassword = `7e5/+=$x`
	routePassword    = `r0ute`
)

// quoted are the variables of nats.conf that are equal for all servers.
var quoted = map[string]string{
	"NODE_PASSWORD":     `"` + nodePassword + `"`,
	"OPERATOR_PASSWORD": `"` + operatorPassword + `"`,
	"ROUTE_PASSWORD":    `"` + routePassword + `"`,
}

// variables returns the variables of nats.conf for a server.
func variables(name string, routes ...string) map[string]string {
	vars := maps.Clone(quoted)
	vars["SERVER_NAME"], vars["ROUTES"] = name, "["+strings.Join(routes, ", ")+"]"
	return vars
}

var environment sync.Mutex // held while a file is read with its own variables

// load reads the configuration of a NATS server as the server itself does, with
// vars in its environment.
func load(t testing.TB, file string, vars map[string]string) *server.Options {
	t.Helper()
	environment.Lock()
	defer environment.Unlock()
	for name, value := range vars {
		os.Setenv(name, value)
		defer os.Unsetenv(name)
	}
	o, err := server.ProcessConfigFile(file)
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return o
}

// cluster is three NATS servers with the configuration in file.
type cluster struct {
	servers []*server.Server
	*violations
}

// newCluster starts three servers with the configuration in file, except for free ports,
// temporary directories and change, which may be nil.
func newCluster(t testing.TB, file string, change func(*server.Options)) *cluster {
	t.Helper()
	c := &cluster{violations: newViolations()}
	var ports []int
	var routes []string
	for range 3 {
		p := testkit.FreePort(t)
		ports = append(ports, p)
		routes = append(routes, fmt.Sprintf(`"nats://route:%s@127.0.0.1:%d"`, routePassword, p))
	}
	for i, port := range ports {
		o := load(t, file, variables(fmt.Sprint("n", i+1), routes...))
		o.Cluster.Host, o.Cluster.Port = "127.0.0.1", port
		if change != nil {
			change(o)
		}
		c.servers = append(c.servers, start(t, o, c.violations))
	}
	testkit.Eventually(t, "a leader of the cluster", func() bool {
		for _, s := range c.servers {
			if s.JetStreamIsLeader() && len(s.JetStreamClusterPeers()) == 3 {
				return true
			}
		}
		return false
	})
	return c
}

// newServer starts a single server with the accounts of file, which is a nats.conf.
func newServer(t testing.TB, file string, vars map[string]string, change func(*server.Options)) (*server.Server, *violations) {
	t.Helper()
	o := load(t, file, vars)
	o.Cluster = server.ClusterOpts{}
	o.SyncAlways = false
	if change != nil {
		change(o)
	}
	v := newViolations()
	return start(t, o, v), v
}

// start starts a server on a free port, with a temporary directory.
func start(t testing.TB, o *server.Options, v *violations) *server.Server {
	t.Helper()
	o.Host, o.Port, o.HTTPPort = "127.0.0.1", testkit.FreePort(t), 0
	o.StoreDir = t.TempDir()
	o.NoLog, o.NoSigs = true, true
	s, err := server.NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	s.SetLogger(v, false, false)
	s.Start()
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	if !s.ReadyForConnections(patience) {
		t.Fatal("the NATS server did not start")
	}
	return s
}

// url returns the URL of a server.
func url(s *server.Server) string {
	return "nats://127.0.0.1:" + strconv.Itoa(s.Addr().(*net.TCPAddr).Port)
}

// operator connects to s as the operator, who has every permission.
func operator(t testing.TB, s *server.Server) *natsgo.Conn {
	t.Helper()
	return connect(t, s, "operator", operatorPassword)
}

func connect(t testing.TB, s *server.Server, user, password string) *natsgo.Conn {
	t.Helper()
	nc, err := natsgo.Connect(url(s), natsgo.UserInfo(user, password), natsgo.ErrorHandler(func(*natsgo.Conn, *natsgo.Subscription, error) {}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// nodeOptions returns the options of a node that connects to s.
func nodeOptions(t testing.TB, s *server.Server) backplane.Options {
	return backplane.Options{
		URLs: []string{url(s)}, User: "node", Password: nodePassword,
		Events: backplane.Events{Error: func(event string, err error) { t.Logf("node: %s: %v", event, err) }},
	}
}

// violations collects the violations of permissions from the log of servers.
type violations struct {
	first chan struct{} // closed at the first violation

	mu    sync.Mutex
	lines []string // guarded by mu
}

func newViolations() *violations { return &violations{first: make(chan struct{})} }

func (v *violations) Errorf(format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	if !strings.Contains(line, "Violation") {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.lines) == 0 {
		close(v.first)
	}
	v.lines = append(v.lines, line)
}

func (v *violations) all() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return append([]string(nil), v.lines...)
}

// check reports all violations as errors of the test.
func (v *violations) check(t testing.TB) {
	t.Helper()
	for _, line := range v.all() {
		t.Errorf("missing permission: %s", line)
	}
}

func (*violations) Noticef(string, ...any) {}
func (*violations) Warnf(string, ...any)   {}
func (*violations) Fatalf(string, ...any)  {}
func (*violations) Debugf(string, ...any)  {}
func (*violations) Tracef(string, ...any)  {}

// await waits until ok is true, or ctx is done.
func await(ctx context.Context, what string, ok func() bool) error {
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	for !ok() {
		select {
		case <-look.C:
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w", what, context.Cause(ctx))
		}
	}
	return nil
}
