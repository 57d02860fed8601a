//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"pubsub/internal/testkit"
)

// broker is a pubsub server of a test, and its data directory, which outlives the process.
type broker struct {
	url        string // "http://127.0.0.1:PORT", or https
	mqttURL    string // the same with ws or wss, and the path /mqtt
	adminToken string
	keyID      string // of a signing key
	keyValue   string
	args       []string
	ops        string // host and port of /readyz
	process    *process
}

// startBroker starts a broker on a free port with a new data directory, and creates a signing key.
func startBroker(t *testing.T, args ...string) *broker {
	t.Helper()
	return startBrokerWith(t, "http", "ws", args...)
}

func startBrokerWith(t *testing.T, scheme, mqttScheme string, args ...string) *broker {
	t.Helper()
	listen, ops := testkit.FreeAddress(t), testkit.FreeAddress(t)
	b := &broker{
		url:        scheme + "://" + listen,
		mqttURL:    mqttScheme + "://" + listen + "/mqtt",
		adminToken: fmt.Sprintf("admin-%016x", rand.Uint64()),
		ops:        ops,
		args: append([]string{
			"serve",
			"--listen", listen,
			"--ops-listen", ops,
			"--data-dir", filepath.Join(t.TempDir(), "data"),
			"--log-level", "debug",
		}, args...),
	}
	b.start(t)
	var key struct{ ID, Value string }
	body := curl(t, "-k", "--fail-with-body", "-X", "POST", "-H", "Fastly-Key: "+b.adminToken, b.url+"/admin/keys")
	if err := json.Unmarshal([]byte(body), &key); err != nil || key.ID == "" || key.Value == "" {
		t.Fatalf("POST /admin/keys answered %q", body)
	}
	b.keyID, b.keyValue = key.ID, key.Value
	return b
}

// start starts the server with the broker's directory and addresses, and waits until it is ready.
func (b *broker) start(t *testing.T) {
	t.Helper()
	cmd := exec.Command(binary, b.args...)
	cmd.Env = append(os.Environ(), "PUBSUB_ADMIN_TOKEN="+b.adminToken)
	b.process = start(t, "pubsub serve", true, cmd)
	late := time.After(patience)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if resp, err := http.Get("http://" + b.ops + "/readyz"); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return
			}
		}
		select {
		case <-tick.C:
		case <-b.process.exited:
			t.Fatalf("pubsub serve ended at once: %v", b.process.cmd.ProcessState)
		case <-late:
			t.Fatalf("pubsub serve is not ready after %v", patience)
		}
	}
}

// crash kills the server with SIGKILL.
func (b *broker) crash() { b.process.kill() }

// events returns the URL of an event stream with the query parameters name, value, name, value.
func (b *broker) events(query ...string) string { return b.url + "/events?" + encodeQuery(query) }
