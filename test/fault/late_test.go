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

// A message that was refused with 503, because the link to NATS was silent, does not replace
// one that was acknowledged later over another link, when it arrives after all.
func TestLateMessageReplacesNothing(t *testing.T) {
	t.Parallel()
	binary, err := unchanged()
	if err != nil {
		t.Fatal(err)
	}
	cluster, _ := newNATS(t, serverCount)
	n := newNode(t, "node", binary, cluster, newChecker())
	n.start()
	nodes{n}.waitReady()
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
		t.Fatalf("publishing: %s", resp.Status)
	}
	var silent []*testkit.Proxy
	for _, l := range n.links {
		if l.InUse() {
			l.SetSilent(true, true)
			silent = append(silent, l)
		}
	}
	if resp := publish("t", "refused"); resp.StatusCode != http.StatusServiceUnavailable {
		t.Fatalf("over a silent link: %s", resp.Status)
	}
	var last *http.Response
	testkit.Eventually(t, "the node changes to another server", func() bool {
		last = publish("t", "acknowledged")
		return last.StatusCode == http.StatusOK
	})
	for _, l := range silent {
		l.SetSilent(false, false)
	}
	// The refused message is now on its way, through a server that forwards it. These
	// messages follow, so that it probably arrives before they are acknowledged.
	for i := range 200 {
		if resp := publish(fmt.Sprint("other", i), "x"); resp.StatusCode != http.StatusOK {
			t.Fatalf("publishing: %s", resp.Status)
		}
	}
	_, retained := do(http.MethodGet, "/admin/topics?prefix=t", "")
	if want := `"version":"` + last.Header.Get("Pubsub-Version") + `"`; !strings.Contains(retained, want) {
		t.Errorf("%s was acknowledged, and retained is %s", want, retained)
	}
}
