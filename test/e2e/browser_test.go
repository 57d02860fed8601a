//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pubsub/internal/testkit"
)

// TestPageReadsRefusals: an EventSource cannot read the body of an error, so a refusal is an event.
// A page of another origin can read the status and the text by fetch.
func TestPageReadsRefusals(t *testing.T) {
	b := startBroker(t)
	token := b.token(t, []string{"mine"}, []string{"mine"})
	page := openPage(t)
	for _, c := range []struct {
		query           []string
		condition, text string
	}{
		{[]string{"topic", "mine"}, "bad-request", "Missing 'Authorization' header or 'auth' parameter"},
		{[]string{"topic", "mine", "auth", "nonsense"}, "forbidden", "Invalid token"},
		{[]string{"topic", "mine", "topic", "theirs", "auth", token}, "forbidden", "Cannot subscribe to topic: theirs"},
		{[]string{"auth", token}, "bad-request", "Missing 'topic' parameter"},
	} {
		page.do(t, "listen", map[string]any{"url": b.events(c.query...)}, nil)
		var got struct{ Condition, Text string }
		e := page.await(t, "stream-error", "stream-open")
		if err := json.Unmarshal(e.Payload, &got); err != nil || e.Kind != "stream-error" {
			t.Fatalf("query %q: got %s %q", c.query, e.Kind, e.Payload)
		}
		if got.Condition != c.condition || got.Text != c.text {
			t.Errorf("query %q: got %+v, want %s: %s", c.query, got, c.condition, c.text)
		}
	}

	var response struct {
		Status int
		Body   string
	}
	page.do(t, "post", map[string]any{"url": b.events("topic", "theirs"), "token": token, "payload": []byte("x")}, &response)
	if response.Status != 403 || response.Body != "Cannot publish to topic: theirs\n" {
		t.Errorf("the response to fetch is %+v", response)
	}
}

// TestPageReadsEnvelopes: with envelope=true a page gets the topic of each message, and every byte,
// CR included.
func TestPageReadsEnvelopes(t *testing.T) {
	b := startBroker(t)
	topics := []string{"a", "b"}
	token := b.token(t, topics, topics)
	page := openPage(t)
	page.do(t, "listen", map[string]any{
		"url": b.events("topic", "a", "topic", "b", "envelope", "true", "durable", "true", "auth", token),
	}, nil)
	version := b.mustPost(t, token, []byte("a\rb\r\nc\n"), "topic", "a", "retain", "true")
	b.mustPost(t, token, []byte{0xff, 0}, "topic", "b")

	type envelope struct {
		Topic   string
		Data    *string
		Base64  []byte
		Version string
	}
	read := func() (e envelope) {
		t.Helper()
		got := page.await(t, "message", "message-base64", "stream-error")
		if err := json.Unmarshal(got.Payload, &e); err != nil || got.Kind != "message" {
			t.Fatalf("got %s %q (%v)", got.Kind, got.Payload, err)
		}
		return e
	}
	if e := read(); e.Topic != "a" || e.Data == nil || *e.Data != "a\rb\r\nc\n" || e.Version != version {
		t.Errorf("got %+v; the version published is %s", e, version)
	}
	if e := read(); e.Topic != "b" || e.Data != nil || string(e.Base64) != "\xff\x00" || e.Version != "" {
		t.Errorf("got %+v", e)
	}
}

// TestPageReconnectsAfterDrain: an EventSource whose server has shut down reconnects after the
// retry that the server sent, and resumes.
func TestPageReconnectsAfterDrain(t *testing.T) {
	b := startBroker(t, "--drain-timeout", "1s")
	token := b.token(t, []string{"t"}, []string{"t"})
	c := newPageClient(t, b, token)
	c.subscribe(t, "t")
	b.mustPost(t, token, []byte("before"), "topic", "t", "retain", "true")
	expect(t, c.next(t), "t", []byte("before"), true)
	if status := b.process.terminate(t); status != 0 {
		t.Errorf("after SIGTERM the exit status is %d", status)
	}
	b.start(t)
	b.mustPost(t, token, []byte("after"), "topic", "t", "retain", "true")
	c.resume(t)
	expect(t, c.next(t), "t", []byte("after"), true)
}

// TestReadmePageBehindProxy: the README's page reconnects after an outage of the broker behind a
// proxy, and resumes, although a 502 closes an EventSource for good.
func TestReadmePageBehindProxy(t *testing.T) {
	b := startBroker(t)
	proxy := startNginx(t, b)
	token := b.token(t, []string{"demo"}, []string{"demo"})
	b.mustPost(t, token, []byte("before"), "topic", "demo", "retain", "true")

	html := readBlocks(t, "../../README.md")["browser"]
	const address = "http://127.0.0.1:7676"
	if strings.Count(html, address) != 1 {
		t.Fatalf("the README's page does not name %s once", address)
	}
	file := filepath.Join(t.TempDir(), "demo.html")
	if err := os.WriteFile(file, []byte(strings.Replace(html, address, proxy.url, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	page := startScript(t, "chromium.js")
	page.do(t, "open", map[string]any{"url": "file://" + file}, nil)
	page.do(t, "fill", map[string]any{"selector": "#token", "text": token}, nil)
	page.do(t, "click", map[string]any{"selector": "#connect"}, nil)
	page.do(t, "see", map[string]any{"text": "before"}, nil)

	// The outage lasts 8 s, and until the browser has given up once and the page has then failed to
	// reconnect once.
	b.crash()
	killed := time.Now()
	proxy.process.await(t, "two requests were answered with 502", func(stdout, _ string) bool {
		return strings.Count(stdout, "GET /events 502") >= 2
	})
	time.Sleep(time.Until(killed.Add(8 * time.Second))) // the length of the outage matters
	b.start(t)
	b.mustPost(t, token, []byte("after"), "topic", "demo", "retain", "true")
	page.do(t, "see", map[string]any{"text": "after"}, nil)
	var shown []string
	page.do(t, "texts", map[string]any{"selector": "#messages li"}, &shown)
	if want := []string{"connected", "before", "connected", "after"}; !slices.Equal(shown, want) {
		t.Errorf("the page shows %q, want %q", shown, want)
	}
}

// nginx is an nginx in front of a broker, with its default settings. It writes a line "METHOD PATH
// STATUS" to standard output after each response.
type nginx struct {
	url     string
	process *process
}

func startNginx(t *testing.T, b *broker) *nginx {
	t.Helper()
	dir, listen := t.TempDir(), testkit.FreeAddress(t)
	conf := fmt.Sprintf(`daemon off;
master_process off;
pid %[1]s/nginx.pid;
error_log stderr;
events {}
http {
	log_format short '$request_method $uri $status';
	access_log /dev/stdout short;
	client_body_temp_path %[1]s/body;
	proxy_temp_path %[1]s/proxy;
	fastcgi_temp_path %[1]s/fastcgi;
	uwsgi_temp_path %[1]s/uwsgi;
	scgi_temp_path %[1]s/scgi;
	server {
		listen %[2]s;
		location / {
			proxy_pass %[3]s;
		}
	}
}
`, dir, listen, b.url)
	file := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	n := &nginx{url: "http://" + listen, process: start(t, "nginx", true, exec.Command("/usr/sbin/nginx", "-c", file))}
	curl(t, "--retry", "100", "--retry-connrefused", "--retry-delay", "0", "--retry-max-time", "30", "--fail", n.url+"/")
	return n
}

// TestAllowedOrigins: with allowed-origins a browser lets only pages of the listed origins read and
// publish.
func TestAllowedOrigins(t *testing.T) {
	page, origin := openPageOrigin(t)
	unlisted := openPage(t)
	b := startBroker(t, "--allowed-origins", origin)
	token := b.token(t, []string{"t"}, []string{"t"})
	post := map[string]any{"url": b.events("topic", "t"), "token": token, "payload": []byte("x")}
	connect := func() map[string]any {
		return map[string]any{"url": b.mqttURL, "options": mqttOptions(token, map[string]any{"reconnectPeriod": 0})}
	}

	var response struct{ Status int }
	page.do(t, "post", post, &response)
	if response.Status != 200 {
		t.Errorf("the response to the listed origin is %d", response.Status)
	}
	page.do(t, "connect", connect(), nil)

	if unlisted.try(t, "post", post, nil) == "" {
		t.Error("a page of an unlisted origin could read the response")
	}
	if unlisted.try(t, "connect", connect(), nil) == "" {
		t.Error("a page of an unlisted origin could connect by MQTT")
	}
}
