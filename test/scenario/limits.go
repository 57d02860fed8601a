package scenario

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"testing"

	"pubsub/internal/config"
	"pubsub/internal/mqtt"
	"pubsub/internal/testkit/wire"
)

// connections waits until the node has want connections, those without a token included.
func (n *node) connections(t *testing.T, want float64) {
	t.Helper()
	if !within(func() bool { return n.metric("pubsub_connections{") == want }) {
		t.Fatalf("%v connections, want %v", n.metric("pubsub_connections{"), want)
	}
}

// Clients over max-connections are refused: with too-many-connections, or CONNACK 0x97. Streams and
// sessions count together, refused clients do not count, and a client that leaves makes room.
func TestMaxConnections(t *testing.T) {
	forEachTransport(t, func(t *testing.T, tr transport) {
		n := start(t, func(c *config.Config) { c.MaxConnections = 2 })
		token := n.token("t")
		ss := []subscriber{transports[0].subscribe(n, token, "t"), transports[1].subscribe(n, token, "t")}
		for range 3 {
			tr.refused(n, token, "t")
			n.connections(t, 2)
		}
		// Limits are checked after topics, parameters, credentials and permissions.
		n.refusesToken(signingKey{"unknown", "x"}.token([]string{"t"}, nil, nil), "t")
		n.getEvents("topic", "u", "auth", token).ExpectError("forbidden", "Cannot subscribe to topic: u")
		for i, s := range ss {
			s.leave()
			n.connections(t, 1)
			ss[i] = tr.subscribe(n, token, "t")
			tr.refused(n, token, "t")
			n.connections(t, 2)
		}
		n.publish("t", "x") // does not count as a connection
		for _, s := range ss {
			expectMessages(t, s, "x")
		}
	})
}

// A client that comes back after a network failure takes over its session even at the limit, when
// no other client may connect.
func TestTakeoverAtMaxConnections(t *testing.T) {
	n := start(t, func(c *config.Config) { c.MaxConnections, c.MaxConnectionsPerIP = 1, 1 })
	token := n.token("t")
	last := n.connect(token, mqtt.Connect{ClientID: "device"})
	for range 3 {
		next := n.connect(token, mqtt.Connect{ClientID: "device"})
		last.ExpectEnd(mqtt.SessionTakenOver, 1000)
		last.Conn.Close()
		n.connections(t, 1)
		last = next
	}
	other := n.upgrade()
	other.Send(&mqtt.Connect{ClientID: "another", Password: []byte(token), HasPassword: true})
	other.ExpectEnd(mqtt.QuotaExceeded, 1000)
	other.Conn.Close()
	last.Ping()
	last.Conn.Close()
	n.connections(t, 0)
	n.connect(token, mqtt.Connect{ClientID: "another"}).Ping()
}

func refusesUpgrade(t *testing.T, n *node, header ...string) {
	t.Helper()
	header = append(header, wire.UpgradeHeader()...)
	c := wire.Get(t, dial(t, n.addr), "/mqtt", header...)
	length, err := strconv.Atoi(c.Header.Get("Content-Length"))
	if err != nil {
		t.Fatal(err)
	}
	body := make([]byte, length)
	if _, err := io.ReadFull(c.Body, body); err != nil {
		t.Fatal(err)
	}
	if c.Status != "HTTP/1.1 503 Service Unavailable" || string(body) != "Too many connections\n" {
		t.Errorf("upgrade over the limit: %s %q", c.Status, body)
	}
	if s, err := strconv.Atoi(c.Header.Get("Retry-After")); err != nil || s < 1 {
		t.Errorf("Retry-After: %q", c.Header.Get("Retry-After"))
	}
}

// Connections that have not shown a token are limited apart, with 503 before the upgrade. They can
// keep out each other, but no client with a token.
func TestMaxConnectionsBeforeConnect(t *testing.T) {
	n := start(t, func(c *config.Config) { c.MaxConnections = 2 })
	token := n.token("t")
	pending := []*wire.MQTT{n.upgrade(), n.upgrade()}
	refusesUpgrade(t, n)
	subscribeSSE(n, token, "t")
	// The first one becomes a client, which makes room for another one without a token.
	pending[0].Connect(token, mqtt.Connect{})
	next := n.upgrade()
	refusesUpgrade(t, n)
	// All places for clients are taken.
	next.Send(&mqtt.Connect{Password: []byte(token), HasPassword: true})
	next.ExpectEnd(mqtt.QuotaExceeded, 1000)
	next.Conn.Close()
	pending[1].Conn.Close()
	n.connections(t, 2)
	n.upgrade()
	n.upgrade()
	refusesUpgrade(t, n)
}

// origin is a way to pass on the address of a client.
type origin struct {
	name  string
	first func(a netip.Addr) []byte // the first bytes of the connection
	lines func(a netip.Addr) []string
}

var origins = []origin{
	{"X-Forwarded-For", nil, func(a netip.Addr) []string { return []string{"X-Forwarded-For: 203.0.113.1, " + a.String()} }},
	{"PROXY protocol version 1", func(a netip.Addr) []byte {
		family := "TCP4"
		if a.Is6() {
			family = "TCP6"
		}
		return fmt.Appendf(nil, "PROXY %s %s %s 5000 7676\r\n", family, a, a)
	}, nil},
	{"PROXY protocol version 2", func(a netip.Addr) []byte {
		b := append([]byte("\r\n\r\n\x00\r\nQUIT\n"), 0x21, 0x11)
		if a.Is6() {
			b[13] = 0x21
		}
		b = binary.BigEndian.AppendUint16(b, uint16(2*a.BitLen()/8+4))
		b = append(append(b, a.AsSlice()...), a.AsSlice()...)
		return append(b, 0x13, 0x88, 0x1d, 0xfc)
	}, nil},
}

// dialAs connects as a trusted proxy for a client of address a. It returns the header lines that
// the proxy adds to requests.
func (o *origin) dialAs(n *node, a netip.Addr) (net.Conn, []string) {
	n.t.Helper()
	conn := dial(n.t, n.addr)
	var lines []string
	if o.first != nil {
		if _, err := conn.Write(o.first(a)); err != nil {
			n.t.Fatal(err)
		}
	}
	if o.lines != nil {
		lines = o.lines(a)
	}
	return conn, lines
}

// max-connections-per-ip counts by the address that a trusted proxy passes on, in X-Forwarded-For
// or a PROXY protocol header (version 1 or 2). It counts by the address of a proxy that is not
// trusted.
func TestMaxConnectionsPerIP(t *testing.T) {
	alice, bob := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	for _, o := range origins {
		t.Run(o.name, func(t *testing.T) {
			n := start(t, func(c *config.Config) {
				c.MaxConnectionsPerIP = 2
				c.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
			})
			token := n.token("t")
			stream := func(a netip.Addr) *wire.SSE {
				t.Helper()
				conn, lines := o.dialAs(n, a)
				return wire.Get(t, conn, "/events?topic=t&auth="+token, lines...)
			}
			session := func(a netip.Addr) *wire.MQTT {
				t.Helper()
				conn, lines := o.dialAs(n, a)
				return wire.Upgrade(t, conn, lines...)
			}
			refused := func(a netip.Addr) {
				t.Helper()
				if e := stream(a).Next(); e.Data != `{"condition":"too-many-connections","text":"Too many connections"}` {
					t.Errorf("not refused: %q", e.Raw)
				}
				m := session(a)
				m.Send(&mqtt.Connect{Password: []byte(token), HasPassword: true})
				m.ExpectEnd(mqtt.QuotaExceeded, 1000)
				m.Conn.Close()
			}
			for _, a := range []netip.Addr{alice, bob} {
				s, m := stream(a), session(a)
				s.ExpectOpen()
				m.Connect(token, mqtt.Connect{})
				m.Subscribe("t")
				refused(a)
				n.publish("t", "x")
				s.Expect("event: message\ndata: x\n")
				m.Expect("t", "x")
			}
			n.connections(t, 4)

			// There may be as many without a token, and all other addresses count as one.
			first := session(alice)
			session(alice)
			conn, lines := o.dialAs(n, alice)
			lines = append(lines, wire.UpgradeHeader()...)
			if c := wire.Get(t, conn, "/mqtt", lines...); c.Status != "HTTP/1.1 503 Service Unavailable" {
				t.Errorf("upgrade over the limit: %s", c.Status)
			}
			session(bob)
			first.Conn.Close()
		})
	}
	t.Run("no proxy is trusted", func(t *testing.T) {
		n := start(t, func(c *config.Config) { c.MaxConnectionsPerIP = 2 })
		token := n.token("t")
		for i, want := range []string{"", "", `{"condition":"too-many-connections","text":"Too many connections"}`} {
			c := wire.Get(t, dial(t, n.addr), "/events?topic=t&auth="+token, fmt.Sprintf("X-Forwarded-For: 192.0.2.%d", i))
			if e := c.Next(); e.Data != want {
				t.Errorf("client %d: %q", i, e.Raw)
			}
		}
	})
}

// A client that leaves makes room for another one of its address.
func TestMaxConnectionsPerIPAreReleased(t *testing.T) {
	forEachTransport(t, func(t *testing.T, tr transport) {
		n := start(t, func(c *config.Config) { c.MaxConnectionsPerIP = 1 })
		token := n.token("t")
		for range 3 {
			s := tr.subscribe(n, token, "t")
			tr.refused(n, token, "t")
			s.leave()
			n.connections(t, 0)
		}
	})
}

// publish-rate limits the messages per second on a node for each kid and sub, with a burst of one
// second's worth, but not those of the admin token. HTTP gets 429; MQTT messages are dropped and
// counted. Both protocols share one allowance.
func TestPublishRate(t *testing.T) {
	const rate, messages = 3, 300
	n := start(t, func(c *config.Config) { c.PublishRate = rate })
	watch := n.adminClient("t")
	token := func(sub string) string { return n.key.token(nil, []string{"t"}, claims{"sub": sub}) }
	p := n.connect(token("a"), mqtt.Connect{})
	var ps []mqtt.Packet
	for i := range messages {
		ps = append(ps, &mqtt.Publish{Topic: "t", Payload: strconv.AppendInt(nil, int64(i), 10)})
	}
	p.Send(ps...)
	p.Ping() // dropped messages do not end the session; the broker has read all of them

	post := func(token string) *http.Response {
		t.Helper()
		resp, body := n.do("POST", n.url("/events?topic=t"), map[string]string{"Authorization": "Bearer " + token}, "posted")
		if want := map[int]string{200: "Published\n", 429: "Too many requests\n"}[resp.StatusCode]; body != want || want == "" {
			t.Fatalf("POST: %s %q", resp.Status, body)
		}
		return resp
	}
	var resp *http.Response
	posted := 0
	if !within(func() bool { resp = post(token("a")); posted++; return resp.StatusCode == 429 }) {
		t.Fatal("the rate is not limited over HTTP")
	}
	if s, err := strconv.Atoi(resp.Header.Get("Retry-After")); err != nil || s != 1 {
		t.Errorf("Retry-After: %q", resp.Header.Get("Retry-After"))
	}
	posted-- // the last one was refused
	for range rate {
		if resp := post(token("b")); resp.StatusCode != 200 { // it has a burst of its own
			t.Errorf("another publisher: %s", resp.Status)
		}
		posted++
	}
	n.publish("t", "end")

	var got int
	for i := -1; ; {
		s := string(watch.NextPublish().Payload)
		if s == "end" {
			break
		}
		if s == "posted" {
			posted--
			continue
		}
		k, err := strconv.Atoi(s)
		if err != nil || k <= i || got < rate && k != got {
			t.Fatalf("after %d messages, the last of them %d: %q", got, i, s)
		}
		i = k
		got++
	}
	if posted != 0 {
		t.Errorf("%d messages were answered with 200 but not delivered", posted)
	}
	dropped := n.metric(`pubsub_publishes_dropped_total{reason="rate-limit"}`)
	if got < rate || got == messages || got+int(dropped) != messages {
		t.Errorf("%d messages were delivered and %v dropped, of %d", got, dropped, messages)
	}
	// No message of the administrator is dropped.
	admin := n.adminClient()
	admin.Send(ps...)
	for i := range messages {
		watch.Expect("t", strconv.Itoa(i))
	}
	for range 2 * rate {
		n.publish("t", "x")
		watch.Expect("t", "x")
	}
}
