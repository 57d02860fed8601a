//go:build linux

package fault_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"pubsub/internal/testkit"
)

// What was answered with 503, because the link to NATS carried nothing, does not
// replace what was acknowledged later by another link, when the first one carries
// again what has waited there.
func TestWhatIsLateReplacesNothing(t *testing.T) {
	t.Parallel()
	binary, err := asItIs()
	if err != nil {
		t.Fatal(err)
	}
	cluster, _ := newNATS(t, servers)
	n := newNode(t, "node", binary, t.TempDir(), cluster, newHistory())
	n.start()
	fleet{n}.ready()
	do := func(method, path, body string) (*http.Response, string) {
		t.Helper()
		req, err := http.NewRequest(method, "http://"+n.addr+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Fastly-Key", adminToken)
		resp, err := n.current().http.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		answer, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp, string(answer)
	}
	publish := func(topic, data string) *http.Response {
		t.Helper()
		resp, _ := do(http.MethodPost, "/events?retain=true&topic="+topic, data)
		return resp
	}
	if resp := publish("t", "first"); resp.StatusCode != http.StatusOK {
		t.Fatal(resp.Status)
	}
	var silent []*testkit.Proxy
	for _, l := range n.links {
		if l.InUse() {
			l.SetSilent(true, true)
			silent = append(silent, l)
		}
	}
	if resp := publish("t", "refused"); resp.StatusCode != http.StatusServiceUnavailable {
		t.Fatalf("by a link that carries nothing: %s", resp.Status)
	}
	var last *http.Response
	if !testkit.Within(testkit.Patience, func() bool { last = publish("t", "acknowledged"); return last.StatusCode == http.StatusOK }) {
		t.Fatalf("the node has not gone to another server after %v", testkit.Patience)
	}
	for _, l := range silent {
		l.SetSilent(false, false)
	}
	// What has waited is on its way now, to a server that passes it on: as often as it
	// takes to be sure that it has come.
	for i := range 200 {
		if resp := publish(fmt.Sprint("other", i), "x"); resp.StatusCode != http.StatusOK {
			t.Fatal(resp.Status)
		}
	}
	_, retained := do(http.MethodGet, "/admin/topics?prefix=t", "")
	if want := `"version":"` + last.Header.Get("Pubsub-Version") + `"`; !strings.Contains(retained, want) {
		t.Errorf("acknowledged was %s, and retained is %s", want, retained)
	}
}
