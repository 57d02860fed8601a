package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"pubsub/internal/testkit"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"pubsub"
)

func TestPublishRefusals(t *testing.T) {
	n := newNode(t, nil)
	ok := "Bearer " + n.writer("t", "$sys", "u")
	unknown := "Bearer " + testkit.Sign(pubsub.Key{ID: "ffffffffffffffff", Value: "x"}, map[string]any{"x-fastly-write": []string{"t"}})
	tooLong := strings.Repeat("x", 32513)
	post := func(target, auth, body string, status int, want string) exchange {
		return exchange{method: "POST", target: target, auth: auth, body: body, status: status, want: want + "\n",
			wantHeader: with("Pubsub-Version", "", "X-Content-Type-Options", "nosniff")}
	}
	wrongKey := post("/events?topic=t", "", "x", 400, "Missing 'Authorization' header")
	wrongKey.header = map[string]string{"Fastly-Key": "wrong"}
	var ttls []exchange
	for _, ttl := range []string{"x", "-1", "%2B1", "1.5", "1e3", "0x10"} {
		ttls = append(ttls, post("/events?topic=t&ttl="+ttl, ok, "x", 400, "Invalid 'ttl' param: must be a whole number of seconds"))
	}
	n.check(t, ttls)
	n.check(t, []exchange{
		post("/events", ok, "x", 400, "Missing 'topic' param"),
		post("/events?", ok, "x", 400, "Missing 'topic' param"),
		post("/events?topic=t&topic=u", ok, "x", 400, "Only one 'topic' param is allowed"),
		post("/events?topic=", ok, "x", 400, "Invalid topic: "),
		post("/events?topic=a%2Bb", ok, "x", 400, "Invalid topic: a+b"),
		post("/events?topic=a%0Db", ok, "x", 400, "Invalid topic: a\ufffdb"),
		post("/events?topic="+strings.Repeat("%C3%A9", 600), ok, "x", 400, "Invalid topic: "+strings.Repeat("é", 64)+"…"),
		post("/events?topic=t&ttl=4294967296", ok, "x", 400, "Invalid 'ttl' param: must be at most 4294967295"),
		post("/events?topic=t&ttl=99999999999999999999", ok, "x", 400, "Invalid 'ttl' param: must be at most 4294967295"),
		post("/events?topic=t&ttl=1&ttl=2", ok, "x", 400, "Invalid 'ttl' param: malformed or repeated"),
		post("/events?topic=t&retain=yes", ok, "x", 400, "Invalid 'retain' param"),
		post("/events?topic=t", "", "x", 400, "Missing 'Authorization' header"),
		post("/events?topic=t", "Bearer", "x", 400, "Invalid 'Authorization' header"),
		post("/events?topic=t", "Digest x", "x", 400, "Unsupported authorization scheme: Digest"),
		post("/events?topic=t&auth="+n.writer("t"), "", "x", 400, "Missing 'Authorization' header"),
		post("/events?topic=t&auth="+adminToken, "", "x", 400, "Missing 'Authorization' header"),
		wrongKey,
		post("/events?topic=t", "Bearer x.y.z", "x", 403, "Invalid token"),
		post("/events?topic=t", unknown, "x", 403, "Invalid token"),
		post("/events?topic=other", ok, "x", 403, "Cannot publish to topic: other"),
		post("/events?topic=T", ok, "x", 403, "Cannot publish to topic: T"),
		post("/events?topic=$sys", ok, "x", 403, "Cannot publish to topic: $sys"),
		post("/events?topic=$sys", "Bearer "+adminToken, "x", 403, "Cannot publish to topic: $sys"),
		post("/events?topic=t", ok, tooLong, 400, "Message size exceeds 32512 bytes maximum"),

		// The first failed check decides the answer.
		post("/events?topic=+&topic=&ttl=x&retain=x", "", tooLong, 400, "Only one 'topic' param is allowed"),
		post("/events?topic=&ttl=x&retain=x", "", tooLong, 400, "Invalid topic: "),
		post("/events?topic=other&ttl=x&retain=x", "Bearer x", tooLong, 400, "Invalid 'ttl' param: must be a whole number of seconds"),
		post("/events?topic=other&ttl=1&retain=x", "Bearer x", tooLong, 400, "Invalid 'retain' param"),
		post("/events?topic=other", "Bearer x", tooLong, 403, "Invalid token"),
		post("/events?topic=other", ok, tooLong, 403, "Cannot publish to topic: other"),
	})
	select {
	case p := <-n.delivered:
		t.Errorf("delivered %+v", p.Message)
	default:
	}
}

// mustPublish makes a request that must succeed. It returns the response and the message that
// the Bus delivered.
func (n *node) mustPublish(t *testing.T, srv *httptest.Server, x exchange) (*http.Response, *pubsub.PreparedMessage) {
	t.Helper()
	x.method = "POST"
	res, body := n.do(t, srv, x)
	if res.StatusCode != 200 || body != "Published\n" {
		t.Fatalf("got %d %q", res.StatusCode, body)
	}
	return res, <-n.delivered
}

func TestPublish(t *testing.T) {
	n := newNode(t, nil)
	auth := "Bearer " + n.writer("t", "a/b, c")
	for _, srv := range []*httptest.Server{n.h1, n.h2} {
		t.Run(protocolOf(srv), func(t *testing.T) {
			before := time.Now()
			res, p := n.mustPublish(t, srv, exchange{target: "/events?topic=t", auth: auth, body: "hello\x00\xff\r\n"})
			if p.Topic != "t" || string(p.Data) != "hello\x00\xff\r\n" || p.Retain || p.HasTTL || !p.Version.IsZero() || p.Published.Before(before) || p.Sender != "" {
				t.Errorf("plain: got %+v", p.Message)
			}
			if res.Header.Get("Pubsub-Version") != "" || res.Header.Get("Access-Control-Allow-Origin") != "*" {
				t.Errorf("plain: header %v", res.Header)
			}

			res, p = n.mustPublish(t, srv, exchange{target: "/events?topic=a%2Fb%2C+c&retain=true&ttl=60", auth: auth, body: "kept"})
			if p.Topic != "a/b, c" || string(p.Data) != "kept" || !p.Retain || !p.HasTTL || p.TTL != 60 {
				t.Errorf("retained: got %+v", p.Message)
			}
			if res.Header.Get("Pubsub-Version") != p.Version.String() || p.Version.IsZero() {
				t.Errorf("retained: version %v, header %q", p.Version, res.Header.Get("Pubsub-Version"))
			}
			m, ok, err := n.backplane.Last(t.Context(), "a/b, c", pubsub.Version{})
			if err != nil || !ok || string(m.Data) != "kept" || m.Version != p.Version {
				t.Errorf("stored: %+v %v %v", m, ok, err)
			}

			// An empty retained message is delivered, and clears the topic.
			res, cleared := n.mustPublish(t, srv, exchange{target: "/events?topic=a%2Fb%2C+c&retain=1", auth: auth})
			if len(cleared.Data) != 0 || !cleared.Version.Newer(p.Version) || res.Header.Get("Pubsub-Version") != cleared.Version.String() {
				t.Errorf("clear: %+v", cleared.Message)
			}
			if _, ok, err := n.backplane.Last(t.Context(), "a/b, c", pubsub.Version{}); ok || err != nil {
				t.Errorf("after the clear: %v %v", ok, err)
			}

			// A message with a TTL of 0 reaches present subscribers, and clears the topic.
			n.mustPublish(t, srv, exchange{target: "/events?topic=t&retain=1", auth: auth, body: "old"})
			_, p = n.mustPublish(t, srv, exchange{target: "/events?topic=t&retain=1&ttl=0", auth: auth, body: "now"})
			if string(p.Data) != "now" || !p.HasTTL || p.TTL != 0 {
				t.Errorf("ttl=0: %+v", p.Message)
			}
			if _, ok, err := n.backplane.Last(t.Context(), "t", pubsub.Version{}); ok || err != nil {
				t.Errorf("after ttl=0: %v %v", ok, err)
			}

			// Empty parameters count as absent.
			if _, p = n.mustPublish(t, srv, exchange{target: "/events?topic=t&ttl=&retain=", auth: auth, body: "x"}); p.HasTTL || p.Retain {
				t.Errorf("empty parameters: %+v", p.Message)
			}
			if _, p = n.mustPublish(t, srv, exchange{target: "/events?topic=t&ttl=4294967295", auth: auth, body: "x"}); p.TTL != 4294967295 || p.Retain {
				t.Errorf("longest ttl: %+v", p.Message)
			}
			// The longest message, and an empty one.
			long := strings.Repeat("x", 32512)
			if _, p = n.mustPublish(t, srv, exchange{target: "/events?topic=t", auth: auth, body: long}); string(p.Data) != long {
				t.Errorf("longest message: %d bytes", len(p.Data))
			}
			if _, p = n.mustPublish(t, srv, exchange{target: "/events?topic=t", auth: auth}); len(p.Data) != 0 {
				t.Errorf("empty message: %d bytes", len(p.Data))
			}
			// The admin may publish anywhere, by either header.
			if _, p = n.mustPublish(t, srv, exchange{target: "/events?topic=anywhere", header: admin, auth: "Bearer wrong", body: "x"}); p.Topic != "anywhere" {
				t.Errorf("admin: %+v", p.Message)
			}
			if _, p = n.mustPublish(t, srv, exchange{target: "/events?topic=anywhere", auth: "bearer " + adminToken, body: "x"}); p.Topic != "anywhere" {
				t.Errorf("admin: %+v", p.Message)
			}
		})
	}
	if !n.log.has("published http 4 true") || !n.log.has("published http 32512 false") {
		t.Errorf("logged %q", n.log.all())
	}
	for _, line := range n.log.all() {
		if strings.Contains(line, adminToken) || strings.Contains(line, n.key.Value) || strings.Contains(line, "eyJ") {
			t.Errorf("a secret was logged: %q", line)
		}
	}
}

func TestPublishFailures(t *testing.T) {
	n := newNode(t, nil)
	down := fmt.Errorf("cannot reach it: %w", pubsub.ErrUnavailable)
	broken := errors.New("disk on fire")
	for _, c := range []struct {
		name       string
		put, send  error
		retain     bool
		status     int
		want       string
		retryAfter bool
	}{
		{name: "send down", send: down, status: 503, want: "Backplane unavailable\n", retryAfter: true},
		{name: "send slow", send: context.DeadlineExceeded, status: 503, want: "Backplane unavailable\n", retryAfter: true},
		{name: "send broken", send: broken, status: 500, want: "Publish process failed\n"},
		{name: "put down", put: down, retain: true, status: 503, want: "Backplane unavailable\n", retryAfter: true},
		{name: "put slow", put: context.DeadlineExceeded, retain: true, status: 503, want: "Backplane unavailable\n", retryAfter: true},
		{name: "put broken", put: broken, retain: true, status: 500, want: "Failed to write message to storage\n"},
		{name: "closed", put: pubsub.ErrClosed, retain: true, status: 503, want: "Shutting down\n", retryAfter: true},
		{name: "stored, not sent", send: broken, retain: true, status: 200, want: "Published\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			n.backplane.fail("Put", c.put)
			n.backplane.fail("Send", c.send)
			target := "/events?topic=t"
			if c.retain {
				target += "&retain=1"
			}
			res, body := n.do(t, n.h1, exchange{method: "POST", target: target, auth: "Bearer " + n.writer("t"), body: "x"})
			if res.StatusCode != c.status || body != c.want {
				t.Errorf("got %d %q, want %d %q", res.StatusCode, body, c.status, c.want)
			}
			checkRetryAfter(t, res, c.retryAfter)
			if strings.Contains(body, "fire") {
				t.Error("the response contains the cause")
			}
			if cause := errors.Join(c.put, c.send); c.status != 200 && !strings.Contains(strings.Join(n.log.all(), "\n"), cause.Error()) {
				t.Errorf("the cause is not logged: %q", n.log.all())
			}
		})
	}
	// The same for a look-up of the token's key.
	unknown := testkit.Sign(pubsub.Key{ID: "ffffffffffffffff", Value: "x"}, map[string]any{"x-fastly-write": []string{"t"}})
	for _, c := range []struct {
		err    error
		status int
		want   string
	}{
		{down, 503, "Backplane unavailable\n"},
		{context.DeadlineExceeded, 503, "Backplane unavailable\n"},
		{broken, 500, "Auth process failed\n"},
	} {
		n.backplane.fail("Key", c.err)
		res, body := n.do(t, n.h1, exchange{method: "POST", target: "/events?topic=t", auth: "Bearer " + unknown, body: "x"})
		if res.StatusCode != c.status || body != c.want {
			t.Errorf("%v: got %d %q, want %d %q", c.err, res.StatusCode, body, c.status, c.want)
		}
		checkRetryAfter(t, res, c.status == 503)
	}
}

func checkRetryAfter(t *testing.T, res *http.Response, want bool) {
	t.Helper()
	var seconds int
	_, err := fmt.Sscanf(res.Header.Get("Retry-After"), "%d", &seconds)
	if got := err == nil && 1 <= seconds && seconds <= 15; got != want {
		t.Errorf("Retry-After: %q", res.Header.Get("Retry-After"))
	}
}

func TestPublishRate(t *testing.T) {
	began := time.Now()
	var passed atomic.Int64
	n := newNode(t, func(o *Options) {
		o.PublishRate = 2
		o.Now = func() time.Time { return began.Add(time.Duration(passed.Load())) }
	})
	post := func(auth string) (*http.Response, string) {
		return n.do(t, n.h1, exchange{method: "POST", target: "/events?topic=t", auth: auth, body: "x"})
	}
	must := func(auth string, status int) *http.Response {
		t.Helper()
		res, body := post(auth)
		want := map[int]string{200: "Published\n", 429: "Too many requests\n"}[status]
		if res.StatusCode != status || body != want {
			t.Fatalf("got %d %q, want %d %q", res.StatusCode, body, status, want)
		}
		return res
	}
	claims := func(sub, salt string) map[string]any {
		return map[string]any{"sub": sub, "salt": salt, "x-fastly-write": []string{"t"}}
	}
	alice := "Bearer " + n.token(claims("alice", "1"))
	must(alice, 200)
	must("Bearer "+n.token(claims("alice", "2")), 200) // the same publisher
	res := must(alice, 429)
	if res.Header.Get("Retry-After") != "1" || res.Header.Get("Access-Control-Expose-Headers") == "" {
		t.Errorf("header %v", res.Header)
	}
	must("Bearer "+n.token(claims("bob", "1")), 200)
	must("Bearer "+n.token(claims("", "1")), 200)
	must("Bearer "+n.token(claims("", "2")), 200)
	for range 5 {
		must("Bearer "+adminToken, 200)
	}
	passed.Add(int64(500 * time.Millisecond))
	must(alice, 200)
	must(alice, 429)

	// The rate limit is checked after the permission and before the size.
	if res, body := n.do(t, n.h1, exchange{method: "POST", target: "/events?topic=other", auth: alice, body: "x"}); res.StatusCode != 403 {
		t.Errorf("no permission: got %d %q", res.StatusCode, body)
	}
	if res, body := n.do(t, n.h1, exchange{method: "POST", target: "/events?topic=t", auth: alice, body: strings.Repeat("x", 40000)}); res.StatusCode != 429 {
		t.Errorf("too long: got %d %q", res.StatusCode, body)
	}

	n.Reload(Limits{PublishRate: 0.1})
	passed.Add(int64(time.Hour))
	must(alice, 200)
	if got := must(alice, 429).Header.Get("Retry-After"); got != "10" {
		t.Errorf("Retry-After: %q", got)
	}
	n.Reload(Limits{})
	for range 5 {
		must(alice, 200)
	}
}
