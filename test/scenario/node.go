package scenario

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"pubsub"
	"pubsub/internal/app"
	"pubsub/internal/config"
	"pubsub/internal/testkit"
)

const adminToken = "admin-token-of-the-tests"

// node is a broker node that runs in this process.
type node struct {
	t         testing.TB
	addr, ops string
	key       signingKey
	log       *nodeLog

	http   *http.Client
	reload chan struct{}
	next   atomic.Pointer[config.Config]

	cancel context.CancelFunc
	ended  chan struct{}
	err    error // of app.Run, once ended is closed
}

type signingKey struct{ ID, Value string }

// start starts a node with a signing key and stops it at the end of the test. By default it
// stores messages in memory and drains without delay.
func start(t testing.TB, settings ...func(*config.Config)) *node {
	t.Helper()
	n := launch(t, settings...)
	if cfg := n.next.Load(); cfg.Admin && cfg.TLSCert == "" {
		n.key = n.newKey()
	}
	return n
}

// launch starts a node like start, but without a signing key, which a node without NATS cannot
// make yet.
func launch(t testing.TB, settings ...func(*config.Config)) *node {
	t.Helper()
	cfg := config.Default()
	cfg.Listen, cfg.OpsListen = "127.0.0.1:0", "127.0.0.1:0"
	cfg.InMemory = true
	cfg.AdminToken = adminToken
	cfg.DrainTimeout = 0
	cfg.LogLevel = "debug"
	cfg.Holder, cfg.IO = mode.Holder, mode.IO
	for _, set := range settings {
		set(cfg)
	}
	if mode.NATS && cfg.NATS == nil {
		toNATS(cfg)
	}
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	n := &node{t: t, log: newNodeLog(), reload: make(chan struct{}), ended: make(chan struct{}),
		http: &http.Client{Transport: &http.Transport{}, Timeout: patience}}
	n.next.Store(cfg)
	ctx, cancel := context.WithCancel(context.Background())
	n.cancel = cancel
	listening := make(chan struct{})
	go func() {
		defer close(n.ended)
		n.err = app.Run(ctx, cfg, app.Options{
			Stdout: io.Discard, Stderr: n.log.Output, Version: "test",
			Reload:       n.reload,
			ConfigReload: func() (*config.Config, error) { return n.next.Load(), nil },
			Listening: func(public, ops net.Addr) {
				n.addr = public.String()
				if ops != nil {
					n.ops = ops.String()
				}
				close(listening)
			},
		})
	}()
	select {
	case <-listening:
	case <-n.ended:
		t.Fatalf("the node did not start: %v", n.err)
	}
	t.Cleanup(func() {
		n.stop()
		if t.Failed() {
			t.Logf("log of the node:\n%s", n.log.tail(4000))
		}
	})
	return n
}

// stop drains the node and waits until it has stopped.
func (n *node) stop() {
	n.t.Helper()
	n.cancel()
	n.http.CloseIdleConnections()
	select {
	case <-n.ended:
	case <-time.After(patience):
		n.t.Fatal("the node did not stop")
	}
	if n.err != nil {
		n.t.Errorf("the node stopped with %v", n.err)
	}
}

// change changes the node's settings, and returns after the node has reloaded them.
func (n *node) change(set func(*config.Config)) {
	cfg := *n.next.Load()
	set(&cfg)
	n.next.Store(&cfg)
	n.reload <- struct{}{}
	// The node takes a second signal only after the first reload.
	n.reload <- struct{}{}
}

func (n *node) url(path string) string {
	if n.next.Load().TLSCert != "" {
		return "https://" + n.addr + path
	}
	return "http://" + n.addr + path
}

// do sends a request to the node and returns the response with its body.
func (n *node) do(method, url string, header map[string]string, body string) (*http.Response, string) {
	n.t.Helper()
	resp, answer, err := n.request(method, url, header, body)
	if err != nil {
		n.t.Fatalf("%s %s: %v", method, url, err)
	}
	return resp, answer
}

// request is do for other goroutines than the test's: it returns errors.
func (n *node) request(method, url string, header map[string]string, body string) (*http.Response, string, error) {
	r, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		return nil, "", err
	}
	for k, v := range header {
		r.Header.Set(k, v)
	}
	resp, err := n.http.Do(r)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp, string(b), err
}

func asAdmin() map[string]string { return map[string]string{"Fastly-Key": adminToken} }

func (n *node) newKey() (k signingKey) {
	n.t.Helper()
	resp, body := n.do("POST", n.url("/admin/keys"), asAdmin(), "")
	if err := json.Unmarshal([]byte(body), &k); err != nil || resp.StatusCode != 200 {
		n.t.Fatalf("creating a key: %s %s", resp.Status, body)
	}
	return k
}

func (n *node) deleteKey(k signingKey) {
	n.t.Helper()
	if resp, body := n.do("DELETE", n.url("/admin/keys/"+k.ID), asAdmin(), ""); resp.StatusCode != 204 {
		n.t.Fatalf("deleting a key: %s %s", resp.Status, body)
	}
}

// publish posts a message as the administrator and returns the version in the response, which is
// empty without retain=true. params are added to the query.
func (n *node) publish(topic, data string, params ...string) (version string) {
	n.t.Helper()
	status, version, body := n.post(topic, data, params...)
	if status != 200 || body != "Published\n" {
		n.t.Fatalf("publishing: %d %q", status, body)
	}
	return version
}

func (n *node) post(topic, data string, params ...string) (status int, version, body string) {
	n.t.Helper()
	q := "topic=" + url.QueryEscape(topic)
	for _, p := range params {
		q += "&" + p
	}
	resp, body := n.do("POST", n.url("/events?"+q), asAdmin(), data)
	return resp.StatusCode, resp.Header.Get("Pubsub-Version"), body
}

// metric returns the sum of the samples whose line in /metrics begins with prefix.
func (n *node) metric(prefix string) (sum float64) {
	n.t.Helper()
	_, body := n.do("GET", "http://"+n.ops+"/metrics", nil, "")
	for line := range strings.Lines(body) {
		if strings.HasPrefix(line, prefix) {
			var v float64
			if _, err := fmt.Sscan(line[strings.LastIndexByte(line, ' ')+1:], &v); err != nil {
				n.t.Fatalf("metric %q: %v", line, err)
			}
			sum += v
		}
	}
	return sum
}

// claims are further claims of a token, besides those with the topics.
type claims map[string]any

// token returns a token to read and write topics, signed with the node's key.
func (n *node) token(topics ...string) string { return n.key.token(topics, topics, nil) }

// token returns a token signed with k.
func (k signingKey) token(read, write []string, more claims) string {
	return testkit.Token(pubsub.Key{ID: k.ID, Value: k.Value}, read, write, testkit.Claims(more))
}

func (k signingKey) sign(header, payload any) string {
	return testkit.SignWith(k.Value, header, payload)
}

// expiring returns the claims of a token that the broker accepts for d, or up to a second longer.
// For a d below 30 s the token has expired already, but by less than the leeway.
func expiring(d time.Duration) claims {
	return claims{"exp": time.Now().Add(d-30*time.Second).Unix() + 1}
}

// nodeLog is the log of a node, for the test to read.
type nodeLog struct {
	*app.Output // its Flush waits for pending lines
	b           testkit.Buffer
}

func newNodeLog() *nodeLog {
	l := new(nodeLog)
	l.Output = app.NewOutput(&l.b)
	return l
}

func (l *nodeLog) String() string {
	l.Flush()
	return l.b.String()
}

func (l *nodeLog) tail(n int) string {
	s := l.String()
	return s[max(0, len(s)-n):]
}

// within polls ok until it returns true, and reports whether it did before patience ended.
func within(ok func() bool) bool { return testkit.Within(patience, ok) }
