package server

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pubsub"
)

func TestPublishRefusals(t *testing.T) {
	n := newNode(t, nil)
	ok := "Bearer " + n.writer("t", "$sys", "u")
	stranger := "Bearer " + sign(pubsub.Key{ID: "ffffffffffffffff", Value: "x"}, map[string]any{"x-fastly-write": []string{"t"}})
	tooLong := strings.Repeat("x", 32513)
	post := func(target, auth, body string, status int, want string) exchange {
		return exchange{method: "POST", target: target, auth: auth, body: body, status: status, want: want + "\n",
			wantHeader: with("Pubsub-Version", "", "X-Content-Type-Options", "nosniff")}
	}
	wrongKey := post("/events?topic=t", "", "x", 400, "Missing 'Authorization' header")
	wrongKey.header = map[string]string{"Fastly-Key": "wrong"}
	n.check(t, []exchange{
		post("/events", ok, "x", 400, "Missing 'topic' param"),
		post("/events?", ok, "x", 400, "Missing 'topic' param"),
		post("/events?topic=t&topic=u", ok, "x", 400, "Only one 'topic' param is allowed"),
		post("/events?topic=", ok, "x", 400, "Invalid topic: "),
		post("/events?topic=a%2Bb", ok, "x", 400, "Invalid topic: a+b"),
		post("/events?topic=a%0Db", ok, "x", 400, "Invalid topic: a\ufffdb"),
		post("/events?topic="+strings.Repeat("%C3%A9", 600), ok, "x", 400, "Invalid topic: "+strings.Repeat("é", 64)+"…"),
		post("/events?topic=t&ttl=x", ok, "x", 400, "Invalid 'ttl' param: must be a whole number of seconds"),
		post("/events?topic=t&ttl=-1", ok, "x", 400, "Invalid 'ttl' param: must be a whole number of seconds"),
		post("/events?topic=t&ttl=%2B1", ok, "x", 400, "Invalid 'ttl' param: must be a whole number of seconds"),
		post("/events?topic=t&ttl=1.5", ok, "x", 400, "Invalid 'ttl' param: must be a whole number of seconds"),
		post("/events?topic=t&ttl=1e3", ok, "x", 400, "Invalid 'ttl' param: must be a whole number of seconds"),
		post("/events?topic=t&ttl=0x10", ok, "x", 400, "Invalid 'ttl' param: must be a whole number of seconds"),
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
		post("/events?topic=t", stranger, "x", 403, "Invalid token"),
		post("/events?topic=other", ok, "x", 403, "Cannot publish to topic: other"),
		post("/events?topic=T", ok, "x", 403, "Cannot publish to topic: T"),
		post("/events?topic=$sys", ok, "x", 403, "Cannot publish to topic: $sys"),
		post("/events?topic=$sys", "Bearer "+adminToken, "x", 403, "Cannot publish to topic: $sys"),
		post("/events?topic=t", ok, tooLong, 400, "Message size exceeds 32512 bytes maximum"),

		// The order of the checks: whatever comes first is what is said.
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

// published makes a request that must succeed and returns the response and what
// the Bus delivered.
func (n *node) published(t *testing.T, srv *httptest.Server, x exchange) (*http.Response, *pubsub.PreparedMessage) {
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
			res, p := n.published(t, srv, exchange{target: "/events?topic=t", auth: auth, body: "hello\x00\xff\r\n"})
			if p.Topic != "t" || string(p.Data) != "hello\x00\xff\r\n" || p.Retain || p.HasTTL || !p.Version.IsZero() || p.Published.Before(before) || p.Sender != "" {
				t.Errorf("plain: got %+v", p.Message)
			}
			if res.Header.Get("Pubsub-Version") != "" || res.Header.Get("Access-Control-Allow-Origin") != "*" {
				t.Errorf("plain: header %v", res.Header)
			}

			res, p = n.published(t, srv, exchange{target: "/events?topic=a%2Fb%2C+c&retain=true&ttl=60", auth: auth, body: "kept"})
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

			// A retained message of no bytes is delivered, and clears.
			res, cleared := n.published(t, srv, exchange{target: "/events?topic=a%2Fb%2C+c&retain=1", auth: auth})
			if len(cleared.Data) != 0 || !cleared.Version.Newer(p.Version) || res.Header.Get("Pubsub-Version") != cleared.Version.String() {
				t.Errorf("clear: %+v", cleared.Message)
			}
			if _, ok, err := n.backplane.Last(t.Context(), "a/b, c", pubsub.Version{}); ok || err != nil {
				t.Errorf("after the clear: %v %v", ok, err)
			}

			// With a life of 0 it reaches who is there, and an older one is gone.
			n.published(t, srv, exchange{target: "/events?topic=t&retain=1", auth: auth, body: "old"})
			_, p = n.published(t, srv, exchange{target: "/events?topic=t&retain=1&ttl=0", auth: auth, body: "now"})
			if string(p.Data) != "now" || !p.HasTTL || p.TTL != 0 {
				t.Errorf("ttl=0: %+v", p.Message)
			}
			if _, ok, err := n.backplane.Last(t.Context(), "t", pubsub.Version{}); ok || err != nil {
				t.Errorf("after ttl=0: %v %v", ok, err)
			}

			// Empty parameters count as absent.
			if _, p = n.published(t, srv, exchange{target: "/events?topic=t&ttl=&retain=", auth: auth, body: "x"}); p.HasTTL || p.Retain {
				t.Errorf("empty parameters: %+v", p.Message)
			}
			if _, p = n.published(t, srv, exchange{target: "/events?topic=t&ttl=4294967295", auth: auth, body: "x"}); p.TTL != 4294967295 || p.Retain {
				t.Errorf("longest ttl: %+v", p.Message)
			}
			// The longest message, and none.
			long := strings.Repeat("x", 32512)
			if _, p = n.published(t, srv, exchange{target: "/events?topic=t", auth: auth, body: long}); string(p.Data) != long {
				t.Errorf("longest message: %d bytes", len(p.Data))
			}
			if _, p = n.published(t, srv, exchange{target: "/events?topic=t", auth: auth}); len(p.Data) != 0 {
				t.Errorf("no message: %d bytes", len(p.Data))
			}
			// The admin may publish anywhere, by either header.
			if _, p = n.published(t, srv, exchange{target: "/events?topic=anywhere", header: admin, auth: "Bearer wrong", body: "x"}); p.Topic != "anywhere" {
				t.Errorf("admin: %+v", p.Message)
			}
			if _, p = n.published(t, srv, exchange{target: "/events?topic=anywhere", auth: "bearer " + adminToken, body: "x"}); p.Topic != "anywhere" {
				t.Errorf("admin: %+v", p.Message)
			}
		})
	}
	if !n.heard.has("published http 4 true") || !n.heard.has("published http 32512 false") {
		t.Errorf("heard %q", n.heard.all())
	}
	for _, line := range n.heard.all() {
		if strings.Contains(line, adminToken) || strings.Contains(line, n.key.Value) || strings.Contains(line, "eyJ") {
			t.Errorf("a secret was told: %q", line)
		}
	}
}

// A body without a length is a message too, if it is no longer than one.
func TestPublishWithoutLength(t *testing.T) {
	n := newNode(t, func(o *Options) { o.MaxMessageSize = 10 })
	for _, srv := range []*httptest.Server{n.h1, n.h2} {
		for _, c := range []struct {
			body   string
			status int
			want   string
		}{
			{"", 200, "Published\n"},
			{"0123456789", 200, "Published\n"},
			{"0123456789a", 400, "Message size exceeds 10 bytes maximum\n"},
			{strings.Repeat("x", 1<<20), 400, "Message size exceeds 10 bytes maximum\n"},
		} {
			t.Run(fmt.Sprint(protocolOf(srv), " ", len(c.body)), func(t *testing.T) {
				body := io.MultiReader(strings.NewReader(c.body)) // hides its length
				req, err := http.NewRequestWithContext(t.Context(), "POST", srv.URL+"/events?topic=t", body)
				if err != nil {
					t.Fatal(err)
				}
				req.Header.Set("Fastly-Key", adminToken)
				res, err := srv.Client().Do(req)
				if err != nil {
					t.Fatal(err)
				}
				defer res.Body.Close()
				got, err := io.ReadAll(res.Body)
				if err != nil || res.StatusCode != c.status || string(got) != c.want {
					t.Fatalf("got %d %q %v", res.StatusCode, got, err)
				}
				if c.status == 200 {
					if p := <-n.delivered; string(p.Data) != c.body {
						t.Errorf("delivered %q", p.Data)
					}
				}
			})
		}
	}
}

// wire is a plain connection to a node.
type wire struct {
	net.Conn
	r *bufio.Reader
}

func (n *node) dial(t *testing.T) *wire {
	t.Helper()
	c, err := net.Dial("tcp", n.h1.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return &wire{c, bufio.NewReader(c)}
}

func (c *wire) send(t *testing.T, s string) {
	t.Helper()
	if _, err := io.WriteString(c, s); err != nil {
		t.Fatal(err)
	}
}

// response reads the next response, and reports whether the server then closes.
func (c *wire) response(t *testing.T) (status int, body string, closes bool) {
	t.Helper()
	res, err := http.ReadResponse(c.r, nil)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(b), res.Close
}

func TestPublishDecidesByContentLength(t *testing.T) {
	n := newNode(t, nil)
	auth := "Fastly-Key: " + adminToken + "\r\n"
	for _, length := range []string{"32513", "4611686018427387904"} {
		c := n.dial(t)
		// Not a byte of the body follows.
		c.send(t, "POST /events?topic=t HTTP/1.1\r\nHost: x\r\n"+auth+"Content-Length: "+length+"\r\n\r\n")
		if status, body, closes := c.response(t); status != 400 || body != "Message size exceeds 32512 bytes maximum\n" || !closes {
			t.Errorf("%s: got %d %q, closes %v", length, status, body, closes)
		}
		if _, err := c.r.ReadByte(); err != io.EOF {
			t.Errorf("%s: after the response: %v", length, err)
		}
	}
}

// A client that asks before it sends is told no without having sent.
func TestPublishExpectContinue(t *testing.T) {
	n := newNode(t, nil)
	c := n.dial(t)
	c.send(t, "POST /events?topic=t HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
	if status, body, _ := c.response(t); status != 400 || body != "Missing 'Authorization' header\n" {
		t.Errorf("refused: got %d %q", status, body)
	}
	c = n.dial(t)
	c.send(t, "POST /events?topic=t HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nFastly-Key: "+adminToken+"\r\nContent-Length: 5\r\n\r\n")
	if line, err := c.r.ReadString('\n'); err != nil || line != "HTTP/1.1 100 Continue\r\n" {
		t.Fatalf("got %q %v", line, err)
	}
	if line, err := c.r.ReadString('\n'); err != nil || line != "\r\n" {
		t.Fatalf("got %q %v", line, err)
	}
	c.send(t, "hello")
	if status, body, closes := c.response(t); status != 200 || body != "Published\n" || closes {
		t.Errorf("accepted: got %d %q, closes %v", status, body, closes)
	}
}

// A body without end costs no more than a message, wherever it is sent.
func TestEndlessBody(t *testing.T) {
	n := newNode(t, nil)
	for _, c := range []struct {
		head   string
		status int
		want   string
	}{
		{"POST /events?topic=t HTTP/1.1\r\nFastly-Key: " + adminToken, 400, "Message size exceeds 32512 bytes maximum\n"},
		{"POST /events HTTP/1.1", 400, "Missing 'topic' param\n"},
		{"POST /nowhere HTTP/1.1", 404, notFound},
		{"POST /admin/keys HTTP/1.1", 401, notAdmin},
	} {
		t.Run(c.head[:20], func(t *testing.T) {
			conn := n.dial(t)
			conn.send(t, c.head+"\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
			var sending sync.WaitGroup
			sending.Go(func() {
				chunk := "1000\r\n" + strings.Repeat("x", 0x1000) + "\r\n"
				for {
					if _, err := io.WriteString(conn, chunk); err != nil {
						return // the server has closed
					}
				}
			})
			if status, body, closes := conn.response(t); status != c.status || body != c.want || !closes {
				t.Errorf("got %d %q, closes %v", status, body, closes)
			}
			sending.Wait()
		})
	}
}

// A connection carries on after a message, and after a refusal of a short one.
func TestConnectionIsKept(t *testing.T) {
	n := newNode(t, nil)
	c := n.dial(t)
	auth := "Fastly-Key: " + adminToken + "\r\n"
	for range 2 {
		c.send(t, "POST /events?topic=t HTTP/1.1\r\nHost: x\r\n"+auth+"Content-Length: 2\r\n\r\nhi")
		if status, body, closes := c.response(t); status != 200 || body != "Published\n" || closes {
			t.Fatalf("got %d %q, closes %v", status, body, closes)
		}
		c.send(t, "POST /events?topic=t HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi")
		if status, body, closes := c.response(t); status != 400 || body != "Missing 'Authorization' header\n" || closes {
			t.Fatalf("refused: got %d %q, closes %v", status, body, closes)
		}
	}
}

// Where two lengths are given, or one that HTTP/1.0 does not know, a proxy may see the
// next request elsewhere: the response is the connection's last. net/http does not tell
// such a body from a chunked one, so that every chunked one costs its connection.
func TestDoubtfulFramingCostsTheConnection(t *testing.T) {
	n := newNode(t, nil)
	auth := "Fastly-Key: " + adminToken + "\r\n"
	const chunked = "Transfer-Encoding: chunked\r\n"
	next := "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
	var wg sync.WaitGroup // what is left of a body is waited for
	defer wg.Wait()
	for _, c := range []struct {
		line, fields string
		status       int
	}{
		{"POST /events?topic=t HTTP/1.1", auth, 200},
		{"POST /events?topic=t HTTP/1.1", "", 400},
		{"POST /events?topic=t HTTP/1.0", auth, 200},
		{"POST /events?topic=t HTTP/1.0", auth + "Connection: keep-alive\r\n", 200},
		{"GET /events?topic=t HTTP/1.1", "", 200},
		{"GET / HTTP/1.1", "", 200},
		{"HEAD / HTTP/1.1", "", 200},
		{"OPTIONS /events HTTP/1.1", "", 200},
		{"GET /nowhere HTTP/1.1", "", 404},
		{"GET /nowhere HTTP/1.0", "Connection: keep-alive\r\n", 404},
		{"GET /mqtt HTTP/1.1", "", 426},
		{"GET /mqtt HTTP/1.1", "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 12\r\n", 426},
		{"POST /admin/keys HTTP/1.1", auth, 200},
		{"GET /admin/keys HTTP/1.1", "", 401},
	} {
		for _, length := range []string{"", "Content-Length: 7\r\n", "Content-Length: 65536\r\n"} {
			if length == "Content-Length: 65536\r\n" && strings.HasSuffix(c.line, "1.0") {
				continue // which counts there, and has not come
			}
			conn := n.dial(t)
			request := c.line + "\r\nHost: x\r\n" + c.fields + length + chunked + "\r\n2\r\nhi\r\n0\r\n\r\n" + next
			status := regexp.MustCompile(fmt.Sprintf("^HTTP/1.[01] %d ", c.status))
			wg.Go(func() {
				io.WriteString(conn, request)
				got, err := io.ReadAll(conn.r)
				if err != nil || !status.Match(got) || bytes.Count(got, []byte("HTTP/1.")) != 1 ||
					!bytes.Contains(got, []byte("\r\nConnection: close\r\n")) {
					t.Errorf("%q is answered with %q, %v", request, got, err)
				}
			})
		}
	}
}

// A client that breaks off sends no message.
func TestTruncatedBody(t *testing.T) {
	n := newNode(t, nil)
	for _, s := range []string{
		"Content-Length: 10\r\n\r\nhi",
		"Transfer-Encoding: chunked\r\n\r\n5\r\nhi",
		"Transfer-Encoding: chunked\r\n\r\nzz\r\nhi",
	} {
		c := n.dial(t)
		c.send(t, "POST /events?topic=t HTTP/1.1\r\nHost: x\r\nFastly-Key: "+adminToken+"\r\n"+s)
		if err := c.Conn.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if status, body, _ := c.response(t); status != 400 || body != "Cannot read the request body\n" {
			t.Errorf("%q: got %d %q", s, status, body)
		}
		if _, err := c.r.ReadByte(); err != io.EOF {
			t.Errorf("%q: after the response: %v", s, err)
		}
	}
	select {
	case p := <-n.delivered:
		t.Errorf("delivered %q", p.Data)
	default:
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
				t.Error("the client is told the cause")
			}
			if cause := errors.Join(c.put, c.send); c.status != 200 && !strings.Contains(strings.Join(n.heard.all(), "\n"), cause.Error()) {
				t.Errorf("the operator is not told the cause: %q", n.heard.all())
			}
		})
	}
	// So with the key that the token names.
	stranger := sign(pubsub.Key{ID: "ffffffffffffffff", Value: "x"}, map[string]any{"x-fastly-write": []string{"t"}})
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
		res, body := n.do(t, n.h1, exchange{method: "POST", target: "/events?topic=t", auth: "Bearer " + stranger, body: "x"})
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

	// Limits come after the permission, before the size.
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

// A body that does not come is not waited for long, wherever it is sent.
func TestSlowBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Options{Backplane: &faulty{}, AdminToken: adminToken, HTTPPublish: true, SSE: true})
		l := newPipes()
		srv := &http.Server{Handler: s.Handler()}
		var serving sync.WaitGroup
		serving.Go(func() { srv.Serve(l) })
		for _, x := range []struct {
			request, want string
			status        int
		}{
			{"POST /events?topic=t HTTP/1.1\r\nFastly-Key: " + adminToken, "Request Timeout\n", 408},
			{"POST /events?topic=t HTTP/1.1", "Missing 'Authorization' header\n", 400},
			{"GET /nowhere HTTP/1.1", notFound, 404},
			{"GET /events HTTP/1.1", `data: {"condition":"bad-request","text":"Missing 'topic' parameter"}` + "\n\n", 200},
		} {
			ours, theirs := net.Pipe()
			l.conns <- theirs
			c := &wire{ours, bufio.NewReader(ours)}
			began := time.Now()
			c.send(t, x.request+"\r\nHost: x\r\nContent-Length: 5\r\n\r\nhe")
			if status, body, closes := c.response(t); status != x.status || !strings.HasSuffix(body, x.want) || !closes {
				t.Errorf("%s: got %d %q, closes %v", x.request, status, body, closes)
			}
			if took := time.Since(began); took > bodyTimeout {
				t.Errorf("%s: took %v", x.request, took)
			}
			ours.Close()
		}
		srv.Close()
		serving.Wait()
	})
}
