package deploy

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"pubsub/internal/app"
	"pubsub/internal/config"
	"pubsub/internal/testkit"

	"github.com/nats-io/nats-server/v2/server"
	"go.yaml.in/yaml/v3"
)

// service is the part of a service in compose.yaml that the tests read.
type service struct {
	Image       string
	Entrypoint  []string
	Command     []string
	Environment map[string]string
	Ports       []string
	Volumes     []string
	Build       struct{ Context, Dockerfile string }
	Healthcheck struct{ Test []string }
	Grace       time.Duration `yaml:"stop_grace_period"`
}

// dotenv holds the variables that users set according to docs/cluster.md.
var dotenv = map[string]string{
	"NODE_PASSWORD":     nodePassword,
	"OPERATOR_PASSWORD": operatorPassword,
	"ROUTE_PASSWORD":    routePassword,
	"ADMIN_TOKEN":       "4dm1n",
}

var variable = regexp.MustCompile(`\$\{([A-Z_]+)(:\?[^}]*)?\}`)

// interpolated returns the services of compose.yaml with the variables of dotenv.
func interpolated(t *testing.T) map[string]*service {
	t.Helper()
	data, err := os.ReadFile("compose.yaml")
	if err != nil {
		t.Fatal(err)
	}
	text := variable.ReplaceAllStringFunc(string(data), func(v string) string {
		value, ok := dotenv[variable.FindStringSubmatch(v)[1]]
		if !ok {
			t.Errorf("compose.yaml uses %s, which docs/cluster.md does not mention", v)
		}
		return value
	})
	var file struct {
		Services map[string]*service
		Volumes  map[string]any
	}
	if err := yaml.Unmarshal([]byte(text), &file); err != nil {
		t.Fatal(err)
	}
	for name, s := range file.Services {
		for _, v := range s.Volumes {
			from, _, _ := strings.Cut(v, ":")
			if _, ok := file.Volumes[from]; !ok && !exists(from) {
				t.Errorf("%s mounts %s, which is neither a volume nor a directory", name, from)
			}
		}
	}
	return file.Services
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// TestCompose runs the services of compose.yaml in this process, with only the variables that it
// sets, and checks that they form one broker.
func TestCompose(t *testing.T) {
	services := interpolated(t)
	names := []string{"nats-1", "nats-2", "nats-3", "pubsub-1", "pubsub-2", "pubsub-3"}
	if len(services) != len(names) {
		t.Fatalf("compose.yaml has %d services, want %v", len(services), names)
	}
	published := map[string]string{}
	for _, name := range names {
		s := services[name]
		if s == nil {
			t.Fatalf("compose.yaml has no service %s", name)
		}
		for _, p := range s.Ports {
			host := p[:strings.LastIndexByte(p, ':')]
			if other, taken := published[host]; taken {
				t.Errorf("%s and %s both publish %s", name, other, host)
			}
			published[host] = name
		}
	}

	addresses := map[string]string{} // by their names in compose.yaml
	for _, name := range names[:3] {
		addresses[name+":6222"] = fmt.Sprint("127.0.0.1:", testkit.FreePort(t))
	}
	v, data := newViolations(), map[string]string{}
	var servers []*server.Server
	for _, name := range names[:3] {
		s := services[name]
		checkNATS(t, name, s)
		for _, volume := range s.Volumes {
			if from, ok := strings.CutSuffix(volume, ":/data"); ok {
				if other, taken := data[from]; taken {
					t.Errorf("%s and %s both write to %s", name, other, from)
				}
				data[from] = name
			}
		}
		s.Environment["ROUTES"] = replaced(s.Environment["ROUTES"], addresses)
		o := load(t, "nats/nats.conf", s.Environment)
		if o.StoreDir != "/data" {
			t.Errorf("the volumes are at /data, but nats.conf has %s", o.StoreDir)
		}
		host, port, _ := net.SplitHostPort(addresses[name+":6222"])
		o.Cluster.Host = host
		fmt.Sscan(port, &o.Cluster.Port)
		natsServer := start(t, o, v)
		servers = append(servers, natsServer)
		addresses[fmt.Sprintf("%s:%d", name, 4222)] = strings.TrimPrefix(url(natsServer), "nats://")
	}
	if len(data) != 3 {
		t.Errorf("the servers have %d volumes at /data, want 3", len(data))
	}
	if a, b, c := servers[0].Name(), servers[1].Name(), servers[2].Name(); a == b || b == c || c == a {
		t.Errorf("the servers are called %s, %s and %s", a, b, c)
	}

	var urls []string
	for _, name := range names[3:] {
		s := services[name]
		if s.Build.Context != ".." || !exists("../"+s.Build.Dockerfile) || !slices.Equal(s.Command, []string{"serve"}) {
			t.Errorf("%s is built of %+v and runs %q", name, s.Build, s.Command)
		}
		urls = append(urls, runNode(t, name, s, addresses))
	}
	for _, u := range urls {
		body := fmt.Sprint("published at ", u)
		if status := publish(t, u, body); status != http.StatusOK {
			t.Fatalf("publishing at %s: status %d", u, status)
		}
		for _, other := range urls {
			if got := newest(t, other); got != body {
				t.Errorf("the message published at %s is %q at %s", u, got, other)
			}
		}
	}
	v.check(t)
}

// replaced returns s with the addresses of the tests.
func replaced(s string, addresses map[string]string) string {
	for name, address := range addresses {
		s = strings.ReplaceAll(s, name, address)
	}
	return s
}

// checkNATS checks the service of a NATS server, without its environment.
func checkNATS(t *testing.T, name string, s *service) {
	t.Helper()
	info, ok := debug.ReadBuildInfo()
	if !ok {
		t.Fatal("no build info")
	}
	for _, m := range info.Deps {
		if m.Path == "github.com/nats-io/nats-server/v2" {
			if want := "nats:" + strings.TrimPrefix(m.Version, "v") + "-alpine"; s.Image != want {
				t.Errorf("%s has image %s, but %s is tested", name, s.Image, want)
			}
		}
	}
	if !slices.Equal(s.Entrypoint, []string{"nats-server", "--config", "/etc/nats/nats.conf"}) || !slices.Contains(s.Volumes, "./nats:/etc/nats:ro") {
		t.Errorf("%s does not run with nats/nats.conf: %q, %q", name, s.Entrypoint, s.Volumes)
	}
	if want := "http://127.0.0.1:8222/healthz"; !slices.Contains(s.Healthcheck.Test, want) {
		t.Errorf("the health of %s is checked by %q, want %s", name, s.Healthcheck.Test, want)
	}
}

// runNode runs a node with the settings of its service until the end of the test, and returns
// its URL.
func runNode(t *testing.T, name string, s *service, addresses map[string]string) string {
	t.Helper()
	var environ []string
	for key, value := range s.Environment {
		environ = append(environ, key+"="+replaced(value, addresses))
	}
	cfg, unknown, err := config.Load(config.Inputs{Environ: environ})
	if err != nil || len(unknown) > 0 {
		t.Fatalf("%s: %v, unknown variables %v", name, err, unknown)
	}
	checkGrace(t, name, s.Grace, cfg)
	// All nodes have the same ports, which would conflict on one machine.
	if cfg.Listen != ":7676" || cfg.OpsListen != ":7677" {
		t.Errorf("%s listens at %s and %s", name, cfg.Listen, cfg.OpsListen)
	}
	cfg.Listen, cfg.OpsListen = "127.0.0.1:0", ""
	ctx, stop := context.WithCancel(context.Background())
	listening, ended := make(chan string, 1), make(chan error, 1)
	go func() {
		ended <- app.Run(ctx, cfg, app.Options{
			Stdout: io.Discard, Stderr: t.Output(),
			Listening: func(public, _ net.Addr) { listening <- "http://" + public.String() },
		})
	}()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("%s: %v", name, err)
		}
	})
	select {
	case u := <-listening:
		return u
	case err := <-ended:
		ended <- nil
		t.Fatalf("%s: %v", name, err)
	case <-time.After(patience):
		t.Fatalf("%s does not listen", name)
	}
	return ""
}

// checkGrace checks that a node is not killed while it drains, including five seconds for
// pending requests.
func checkGrace(t *testing.T, what string, grace time.Duration, cfg *config.Config) {
	t.Helper()
	if least := cfg.DrainTimeout + 5*time.Second; grace <= least {
		t.Errorf("%s is killed after %v, but draining takes up to %v", what, grace, least)
	}
}

// publish publishes a retained message, and repeats that until the cluster is ready.
func publish(t *testing.T, u, body string) (status int) {
	t.Helper()
	testkit.Eventually(t, "an answer other than 503", func() bool {
		status = post(t, u, body)
		return status != http.StatusServiceUnavailable
	})
	return status
}

func post(t *testing.T, u, body string) int {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), "POST", u+"/events?topic=t&retain=true", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	response := do(t, r)
	response.Body.Close()
	return response.StatusCode
}

func do(t *testing.T, r *http.Request) *http.Response {
	t.Helper()
	r.Header.Set("Authorization", "Bearer "+dotenv["ADMIN_TOKEN"])
	response, err := (&http.Client{Timeout: patience}).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	return response
}

// newest returns the first message of a new subscriber.
func newest(t *testing.T, u string) string {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), "GET", u+"/events?topic=t&durable=true", nil)
	if err != nil {
		t.Fatal(err)
	}
	response := do(t, r)
	defer response.Body.Close()
	lines := bufio.NewScanner(response.Body)
	for lines.Scan() {
		if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok && data != "" {
			return data
		}
	}
	return fmt.Sprint("no message: ", lines.Err())
}
