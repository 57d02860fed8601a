package scenario

import (
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"pubsub/internal/config"
	"pubsub/internal/testkit"
	"pubsub/internal/testkit/wire"
)

// A stream is always 200, with these headers. Over HTTP/1.1 it is chunked, and its end closes the
// connection. The first event is stream-open.
func TestStreamHead(t *testing.T) {
	n := start(t)
	c := n.getEvents("topic", "t", "auth", n.token("t"))
	if c.Status != "HTTP/1.1 200 OK" {
		t.Errorf("status %q", c.Status)
	}
	for name, want := range map[string][]string{
		"Content-Type":                 {"text/event-stream"},
		"Cache-Control":                {"no-store, no-transform"},
		"X-Accel-Buffering":            {"no"},
		"Connection":                   {"close"},
		"Access-Control-Allow-Origin":  {"*"},
		"Access-Control-Allow-Methods": {"OPTIONS, HEAD, GET, POST, PUT, DELETE"},
		"Access-Control-Allow-Headers": {"Authorization, Content-Type, Last-Event-ID, Fastly-Key, Cache-Control, X-Requested-With, traceparent, tracestate"},
		"Transfer-Encoding":            {"chunked"},
		"Content-Length":               nil,
	} {
		if got := c.Header.Values(name); !slices.Equal(got, want) {
			t.Errorf("%s: %q, not %q", name, got, want)
		}
	}
	if _, err := http.ParseTime(c.Header.Get("Date")); err != nil {
		t.Errorf("Date: %v", err)
	}
	c.ExpectOpen()
}

// HEAD /events answers like GET, but is not a stream.
func TestHeadOfEventsIsNoStream(t *testing.T) {
	n := start(t)
	conn := dial(t, n.addr)
	io.WriteString(conn, "HEAD /events?topic=t HTTP/1.1\r\nHost: broker\r\nConnection: close\r\n\r\n")
	got := wire.ReadAll(t, conn)
	for _, want := range []string{"HTTP/1.1 200 OK\r\n", "\r\nContent-Type: text/event-stream\r\n", "\r\nCache-Control: no-store, no-transform\r\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in %q", want, got)
		}
	}
	if !strings.HasSuffix(got, "\r\n\r\n") || strings.Count(got, "\r\n\r\n") != 1 {
		t.Errorf("body: %q", got)
	}
}

// Each refusal of a stream is one event and the end of the body. Each request also has the faults
// of all later checks, which shows the order of the checks.
func TestStreamRefusals(t *testing.T) {
	n := start(t)
	token := n.token("t", "u", "é")
	eleven := ""
	for i := range 11 {
		eleven += fmt.Sprintf("&topic=t%d", i)
	}
	long := strings.Repeat("x", 1025)
	for _, tt := range []struct {
		name, query     string
		header          []string
		condition, text string
	}{
		{"no topic", "", nil, "bad-request", "Missing 'topic' parameter"},
		{"no topic, bad flag, bad token", "?durable=x&auth=x", nil, "bad-request", "Missing 'topic' parameter"},
		{"topic without a value", "?topic", nil, "bad-request", "Invalid topic: "},
		{"empty topic", "?topic=&auth=" + token, nil, "bad-request", "Invalid topic: "},
		{"11 topics", "?auth=" + token + eleven, nil, "bad-request", "Too many topics"},
		{"11 topics, one invalid", "?topic=" + eleven, nil, "bad-request", "Too many topics"},
		{"plus", "?topic=a%2Bb&auth=" + token, nil, "bad-request", "Invalid topic: a+b"},
		{"hash", "?topic=a/%23", nil, "bad-request", "Invalid topic: a/#"},
		{"control characters", "?topic=a%00b%1F%7F%C2%85%0A", nil, "bad-request", "Invalid topic: a\ufffdb\ufffd\ufffd\ufffd\ufffd"},
		{"U+FEFF", "?topic=%EF%BB%BF", nil, "bad-request", "Invalid topic: \ufeff"},
		{"not UTF-8", "?topic=a%FF", nil, "bad-request", "Invalid topic: a\ufffd"},
		{"bad escape", "?topic=a%2", nil, "bad-request", "Invalid topic: a%2"},
		{"1,025 bytes", "?topic=" + long, nil, "bad-request", "Invalid topic: " + long[:64] + "…"},
		{"quotes in a topic", "?topic=%22%5C%2B", nil, "bad-request", `Invalid topic: "\+`},
		{"first of the invalid in byte order", "?topic=z%2B&topic=b%23&topic=c%2B&topic=a", nil, "bad-request", "Invalid topic: b#"},
		{"topic before flag", "?topic=%2B&durable=x", nil, "bad-request", "Invalid topic: +"},

		{"durable", "?topic=t&durable=yes", nil, "bad-request", "Invalid 'durable' param"},
		{"durable in another case", "?topic=t&durable=True", nil, "bad-request", "Invalid 'durable' param"},
		{"envelope", "?topic=t&envelope=2&auth=x", nil, "bad-request", "Invalid 'envelope' param"},
		{"bad escape in auth", "?topic=t&auth=%zz", nil, "bad-request", "Invalid 'auth' param"},

		{"no credentials", "?topic=t", nil, "bad-request", "Missing 'Authorization' header or 'auth' parameter"},
		{"empty credentials", "?topic=t&auth=", []string{"Authorization:"}, "bad-request", "Missing 'Authorization' header or 'auth' parameter"},
		{"only a wrong Fastly-Key", "?topic=t", []string{"Fastly-Key: wrong"}, "bad-request", "Missing 'Authorization' header or 'auth' parameter"},
		{"scheme alone", "?topic=t", []string{"Authorization: Bearer"}, "bad-request", "Invalid 'Authorization' header"},
		{"no scheme", "?topic=t", []string{"Authorization: " + token}, "bad-request", "Invalid 'Authorization' header"},
		{"another scheme", "?topic=t", []string{"Authorization: Basic dDp0"}, "bad-request", "Unsupported authorization scheme: Basic"},
		{"bad token", "?topic=t&auth=x", nil, "forbidden", "Invalid token"},
		{"bad token in the header", "?topic=t", []string{"Authorization: Bearer x"}, "forbidden", "Invalid token"},
		{"the query wins", "?topic=t&auth=x", []string{"Authorization: Bearer " + token}, "forbidden", "Invalid token"},
		{"admin token in the query", "?topic=t&auth=" + adminToken, nil, "forbidden", "Invalid token"},
		{"token before permission", "?topic=secret&auth=x", nil, "forbidden", "Invalid token"},

		{"topic not granted", "?topic=v&auth=" + token, nil, "forbidden", "Cannot subscribe to topic: v"},
		{"first of those not granted in byte order", "?topic=t&topic=z&topic=w&topic=u&auth=" + token, nil, "forbidden", "Cannot subscribe to topic: w"},
		{"matched exactly", "?topic=T&auth=" + token, nil, "forbidden", "Cannot subscribe to topic: T"},
		{"long topic", "?topic=" + long[:1024] + "&auth=" + token, nil, "forbidden", "Cannot subscribe to topic: " + long[:64] + "…"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := wire.Get(t, dial(t, n.addr), "/events"+tt.query, append(tt.header, "Connection: close")...)
			if c.Status != "HTTP/1.1 200 OK" || c.Header.Get("Content-Type") != "text/event-stream" ||
				c.Header.Get("Cache-Control") != "no-store, no-transform" || c.Header.Get("X-Accel-Buffering") != "no" {
				t.Errorf("refusal: %s %v", c.Status, c.Header)
			}
			quoted := strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(tt.text)
			c.ExpectError(tt.condition, quoted)
			c.ExpectEnd()
		})
	}
}

// These requests are accepted: each lacks the fault of a refused one.
func TestStreamCredentials(t *testing.T) {
	n := start(t)
	token := n.token("t")
	ten := "?auth=" + n.token("t0", "t1", "t2", "t3", "t4", "t5", "t6", "t7", "t8", "t9")
	for i := range 30 {
		ten += fmt.Sprintf("&topic=t%d", i%10)
	}
	for _, tt := range []struct {
		name, query string
		header      []string
	}{
		{"query", "?topic=t&auth=" + token, nil},
		{"header", "?topic=t", []string{"Authorization: Bearer " + token}},
		{"scheme in another case, empty auth", "?topic=t&auth=", []string{"Authorization: bEARER " + token}},
		{"query before a bad header", "?topic=t&auth=" + token, []string{"Authorization: Basic x"}},
		{"wrong Fastly-Key is ignored", "?topic=t&auth=" + token, []string{"Fastly-Key: wrong"}},
		{"admin token as Fastly-Key", "?topic=anything", []string{"Fastly-Key: " + adminToken}},
		{"admin token as bearer", "?topic=anything", []string{"Authorization: Bearer " + adminToken}},
		{"reserved topic", "?topic=$SYS/x", []string{"Fastly-Key: " + adminToken}},
		{"10 topics, each three times", ten, nil},
		{"flags", "?topic=t&durable=1&envelope=0&auth=" + token, nil},
		{"bad cursor", "?topic=t&durable=true&lastEventId=%zz&auth=" + token, nil},
		{"unknown parameter", "?topic=t&foo=bar&auth=" + token, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			wire.Get(t, dial(t, n.addr), "/events"+tt.query, tt.header...).ExpectOpen()
		})
	}
}

// Every refused token gets "Invalid token", for any fault.
func TestTokenRefusals(t *testing.T) {
	n := start(t)
	now := time.Now().Unix()
	k := n.key
	header := map[string]any{"alg": "HS256", "typ": "JWT", "kid": k.ID}
	with := func(name string, v any) map[string]any {
		h := map[string]any{}
		for k, v := range header {
			h[k] = v
		}
		h[name] = v
		return h
	}
	rights := claims{"x-fastly-read": []string{"t"}}
	good := k.sign(header, rights)
	for name, token := range map[string]string{
		"unknown kid":            signingKey{"unknown", k.Value}.token([]string{"t"}, nil, nil),
		"no kid":                 k.sign(map[string]any{"alg": "HS256"}, rights),
		"another secret":         signingKey{k.ID, k.Value + "x"}.token([]string{"t"}, nil, nil),
		"alg none":               k.sign(with("alg", "none"), rights),
		"alg none, unsigned":     testkit.Unsigned(with("alg", "none"), rights) + ".",
		"alg HS512":              k.sign(with("alg", "HS512"), rights),
		"crit":                   k.sign(with("crit", []string{"exp"}), rights),
		"over 8 KiB":             k.token([]string{"t", strings.Repeat("x", 8<<10)}, nil, nil),
		"expired":                k.token([]string{"t"}, nil, claims{"exp": now - 40}),
		"not yet valid":          k.token([]string{"t"}, nil, claims{"nbf": now + 60}),
		"rights of another kind": k.sign(header, claims{"x-fastly-read": "t"}),
		"tampered":               good[:len(good)-4] + "AAAA",
		"two parts":              strings.Join(strings.Split(good, ".")[:2], "."),
	} {
		t.Run(name, func(t *testing.T) {
			c := n.getEvents("topic", "t", "auth", token)
			c.ExpectError("forbidden", "Invalid token")
			m := n.upgrade()
			m.WriteFrame(wire.FIN|wire.OpBinary, connectWith(token))
			m.ExpectEnd(0x87, 1000)
			if resp, body := n.do("POST", n.url("/events?topic=t"), map[string]string{"Authorization": "Bearer " + token}, "x"); resp.StatusCode != 403 || body != "Invalid token\n" {
				t.Errorf("POST: %s %q", resp.Status, body)
			}
		})
	}
	// exp and nbf have 30 s of leeway.
	for _, more := range []claims{{"exp": now - 20}, {"nbf": now + 20}, {"exp": now + 60, "nbf": now - 60}} {
		n.events("topic", "t", "auth", k.token([]string{"t"}, nil, more))
	}
}

// A token without exp is accepted unless require-exp is set.
func TestRequireExp(t *testing.T) {
	n := start(t, func(c *config.Config) { c.RequireExp = true })
	n.getEvents("topic", "t", "auth", n.token("t")).ExpectError("forbidden", "Invalid token")
	n.events("topic", "t", "auth", n.key.token([]string{"t"}, nil, claims{"exp": time.Now().Unix() + 60}))
}

// A message of valid UTF-8 is one data line for each line of the content, where CR LF and a lone CR
// end a line like LF. Any other message is a message-base64 event with one line of standard Base64.
func TestMessageEvents(t *testing.T) {
	n := start(t)
	c := n.adminEvents("topic", "t")
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	for _, tt := range []struct{ data, want string }{
		{"hello world", "event: message\ndata: hello world\n"},
		{"", "event: message\ndata: \n"},
		{" leading", "event: message\ndata:  leading\n"},
		{"a\nb\r\nc\rd", "event: message\ndata: a\ndata: b\ndata: c\ndata: d\n"},
		{"\n", "event: message\ndata: \ndata: \n"},
		{"\r\r", "event: message\ndata: \ndata: \ndata: \n"},
		{"x\rid: 1\r\revent: forged\rdata: y", "event: message\ndata: x\ndata: id: 1\ndata: \ndata: event: forged\ndata: data: y\n"},
		{"{\"text\":\"hello\"}", "event: message\ndata: {\"text\":\"hello\"}\n"},
		{"\x00\u0085\u2028é", "event: message\ndata: \x00\u0085\u2028é\n"},
		{"\xff", "event: message-base64\ndata: /w==\n"},
		{"text\r\n\xc3", "event: message-base64\ndata: dGV4dA0Kww==\n"},
		{string(all), "event: message-base64\ndata: " + base64.StdEncoding.EncodeToString(all) + "\n"},
	} {
		n.publish("t", tt.data)
		c.Expect(tt.want)
	}
}

// With envelope=true the data is one line of JSON with the topic and the exact content, CR
// included.
func TestEnvelope(t *testing.T) {
	n := start(t)
	one := n.adminEvents("topic", "t", "envelope", "true")
	durable := n.adminEvents("topic", "t", "topic", "u,", "envelope", "1", "durable", "1")
	n.publish("t", "a\r\n\"é\"\rb")
	want := "event: message\ndata: {\"topic\":\"t\",\"data\":\"a\\r\\n\\\"é\\\"\\rb\"}\n"
	one.Expect(want)
	durable.Expect(want)
	n.publish("t", "\xff")
	want = "event: message\ndata: {\"topic\":\"t\",\"base64\":\"/w==\"}\n"
	one.Expect(want)
	durable.Expect(want)
	v := n.publish("t", "kept", "retain=true")
	one.Expect("event: message\ndata: {\"topic\":\"t\",\"data\":\"kept\",\"version\":\"" + v + "\"}\n")
	durable.Expect("event: message\nid: t:" + v + "\ndata: {\"topic\":\"t\",\"data\":\"kept\",\"version\":\"" + v + "\"}\n")
	w := n.publish("u,", "", "retain=true")
	durable.Expect("event: message\nid: t:" + v + ",u%2C:" + w + "\ndata: {\"topic\":\"u,\",\"data\":\"\",\"version\":\"" + w + "\"}\n")
	again := n.adminEvents("topic", "t", "envelope", "1", "durable", "1")
	again.Expect("event: message\nid: t:" + v + "\ndata: {\"topic\":\"t\",\"data\":\"kept\",\"version\":\"" + v + "\"}\n")
}

// After sse-keep-alive without a byte, a stream gets a keep-alive event with empty data.
func TestKeepAliveEvent(t *testing.T) {
	n := start(t, func(c *config.Config) { c.SSEKeepAlive = 150 * time.Millisecond })
	c := n.adminEvents("topic", "t")
	for range 3 {
		c.Expect("event: keep-alive\ndata: \n")
	}
	n.publish("t", "x")
	for e := c.Next(); e.Raw != "event: message\ndata: x\n"; e = c.Next() {
		if e.Raw != "event: keep-alive\ndata: \n" {
			t.Fatalf("not a keep-alive: %q", e.Raw)
		}
	}
	c.Expect("event: keep-alive\ndata: \n")
}

// Bytes that a client sends after its request are ignored.
func TestBytesAfterRequestAreIgnored(t *testing.T) {
	n := start(t)
	c := n.adminEvents("topic", "t")
	io.WriteString(c.Conn, "GET / HTTP/1.1\r\nHost: broker\r\n\r\n")
	n.publish("t", "x")
	c.Expect("event: message\ndata: x\n")
}
