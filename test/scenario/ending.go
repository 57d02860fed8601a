package scenario

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strconv"
	"testing"
	"time"

	"pubsub/internal/config"
	"pubsub/internal/mqtt"
	"pubsub/internal/testkit/wire"
)

// refusesToken checks that a new stream, session and POST with the token are refused with "Invalid
// token".
func (n *node) refusesToken(token, topic string) {
	n.t.Helper()
	c := wire.Get(n.t, dial(n.t, n.addr), "/events"+wire.Query("topic", topic, "auth", token), lastRequest)
	c.ExpectError("forbidden", "Invalid token")
	c.ExpectEnd()
	m := n.upgrade()
	m.WriteFrame(wire.FIN|wire.OpBinary, connectWith(token))
	m.ExpectEnd(mqtt.NotAuthorized, 1000)
	m.Conn.Close()
	resp, body := n.do("POST", n.url("/events"+wire.Query("topic", topic)), map[string]string{"Authorization": "Bearer " + token}, "x")
	if resp.StatusCode != 403 || body != "Invalid token\n" {
		n.t.Errorf("POST: %s %q", resp.Status, body)
	}
}

// lastMoment returns when the broker ends a client with the claims of expiring: at exp and the
// leeway.
func lastMoment(c claims) time.Time { return time.Unix(c["exp"].(int64)+30, 0) }

// A stream or session ends at exp and 30 s of leeway: SSE with the stream-error token-expired, MQTT
// with DISCONNECT 0x87.
func TestTokenExpires(t *testing.T) {
	forEachTransport(t, func(t *testing.T, tr transport) {
		n := start(t)
		stays := tr.subscribe(n, n.token("t"), "t")
		// The token has passed its exp already, but not the leeway.
		end := expiring(time.Second)
		token := n.key.token([]string{"t"}, []string{"t"}, end)
		s := tr.subscribe(n, token, "t")
		n.publish("t", "before")
		for _, s := range []subscriber{s, stays} {
			expectMessages(t, s, "before")
		}
		s.ends(expired)
		if early := time.Until(lastMoment(end)); early > 0 {
			t.Errorf("ended %v too early", early)
		}
		n.refusesToken(token, "t")
		n.publish("t", "after")
		expectMessages(t, stays, "after")
	})
}

// With enforce-expiry: false, as in the original implementation, a connection outlives its token,
// but the token admits no new ones.
func TestTokenExpiryIsNotEnforced(t *testing.T) {
	forEachTransport(t, func(t *testing.T, tr transport) {
		n := start(t, func(c *config.Config) { c.EnforceExpiry = false })
		end := expiring(time.Second)
		token := n.key.token([]string{"t"}, []string{"t"}, end)
		s := tr.subscribe(n, token, "t")
		// Wait past the expiry and a tick of the hub's wheel. Nothing must happen then.
		time.Sleep(time.Until(lastMoment(end)) + 300*time.Millisecond)
		n.refusesToken(token, "t")
		n.publish("t", "after")
		expectMessages(t, s, "after")
	})
}

// Deleting a key ends the connections of its tokens: SSE with token-revoked, MQTT with 0x87. Those
// of other keys and of the admin token stay.
func TestKeyIsDeleted(t *testing.T) {
	forEachTransport(t, func(t *testing.T, tr transport) {
		n := start(t)
		k := n.newKey()
		token := k.token([]string{"t", "u"}, []string{"t"}, nil)
		gone := []subscriber{tr.subscribe(n, token, "t"), tr.subscribe(n, token, "u"), tr.subscribe(n, k.token([]string{"t"}, nil, claims{"sub": "x"}), "t")}
		stay := []subscriber{tr.subscribe(n, n.token("t"), "t"), mqttSubscriber{n.adminClient("t")}, sseSubscriber{n.adminEvents("topic", "t")}}
		n.deleteKey(k)
		n.refusesToken(token, "t")
		n.publish("t", "after")
		for _, s := range gone {
			s.ends(revoked)
			s.leave()
		}
		for _, s := range stay {
			expectMessages(t, s, "after")
		}
		if !within(func() bool { return n.metric("pubsub_connections{") == 3 }) {
			t.Errorf("%v connections, want 3", n.metric("pubsub_connections{"))
		}
	})
}

// A draining node answers /readyz with 503. It accepts no new clients: POST and upgrades get 503
// "Shutting down". It closes the streams spread over --drain-timeout and then exits. A stream ends
// after a keep-alive event with a retry field of 1 to 10 s, and a new GET /events gets only that
// event, with 200. A session ends with DISCONNECT 0x8B, and its will is not published.
func TestDrain(t *testing.T) {
	forEachTransport(t, func(t *testing.T, tr transport) {
		const streams, spread = 20, time.Second
		dir := t.TempDir()
		stored := func(c *config.Config) { c.InMemory, c.DataDir = false, config.Dir(dir) }
		n := start(t, stored, func(c *config.Config) { c.DrainTimeout = spread })
		var ss []subscriber
		for range streams {
			ss = append(ss, tr.subscribe(n, n.token("t", "will"), "t", "will"))
		}
		n.connect(n.token("will"), mqtt.Connect{Will: &mqtt.Will{Topic: "will", Payload: []byte("x"), Retain: true}})
		// A WebSocket without a CONNECT does not delay other clients, nor does a client that does
		// not close its side. As long as it is open, the node drains.
		n.upgrade()

		began := time.Now()
		n.cancel()
		if !within(func() bool {
			resp, body := n.do("GET", "http://"+n.ops+"/readyz", nil, "")
			return resp.StatusCode == 503 && body == "shutting down\n"
		}) {
			t.Fatal("/readyz does not turn 503")
		}
		c := wire.Get(t, dial(t, n.addr), "/events"+wire.Query("topic", "t", "auth", n.token("t")), lastRequest)
		if c.Status != "HTTP/1.1 200 OK" || c.Header.Get("Content-Type") != "text/event-stream" {
			t.Errorf("GET /events: %s %v", c.Status, c.Header)
		}
		c.ExpectDrain()
		c.ExpectEnd()
		up := wire.Get(t, dial(t, n.addr), "/mqtt", wire.UpgradeHeader()...)
		resp, body := n.do("POST", n.url("/events?topic=t"), asAdmin(), "x")
		if up.Status != "HTTP/1.1 503 Service Unavailable" || resp.StatusCode != 503 || body != "Shutting down\n" {
			t.Errorf("upgrade: %s; POST: %s %q", up.Status, resp.Status, body)
		}
		for _, h := range []http.Header{http.Header(up.Header), resp.Header} {
			if s, err := strconv.Atoi(h.Get("Retry-After")); err != nil || s < 1 || s > 10 {
				t.Errorf("Retry-After: %q", h.Get("Retry-After"))
			}
		}

		for _, s := range ss {
			s.ends(drained)
			s.leave()
		}
		if took := time.Since(began); took < spread/2 {
			t.Errorf("all ended within %v of %v", took, spread)
		}
		n.stop() // fails the test if the node does not stop, or with an error

		again := start(t, stored)
		d := again.adminEvents("topic", "will", "topic", "end", "durable", "true") // a retained will would come first
		again.publish("end", "of the test")
		d.Expect("event: message\ndata: of the test\n")
	})
}

// A node without clients does not wait for --drain-timeout.
func TestDrainWithoutClients(t *testing.T) {
	n := start(t, func(c *config.Config) { c.DrainTimeout = time.Hour })
	c := n.adminEvents("topic", "t")
	m := n.adminClient("t")
	c.Conn.Close()
	m.Conn.Close()
	if !within(func() bool { return n.metric("pubsub_connections{") == 0 }) {
		t.Fatal("there are still connections")
	}
	n.stop()
}

// A draining node still deletes keys and clears retained messages. It stops as soon as the last
// client has left, before the end of --drain-timeout.
func TestDrainServesDeletions(t *testing.T) {
	n := start(t, func(c *config.Config) { c.DrainTimeout = time.Hour })
	n.publish("t", "x", "retain=true")
	clients := []net.Conn{n.adminEvents("topic", "t").Conn, n.adminClient("t").Conn, n.adminEvents("topic", "t").Conn}
	n.cancel()
	if !within(func() bool { status, _, _ := n.post("t", "y"); return status == 503 }) {
		t.Fatal("the node does not drain")
	}
	n.deleteKey(n.key)
	if resp, body := n.do("DELETE", n.url("/admin/topics/t/retained"), asAdmin(), ""); resp.StatusCode != 204 {
		t.Errorf("clearing: %s %q", resp.Status, body)
	}
	if resp, body := n.do("POST", n.url("/admin/keys"), asAdmin(), ""); resp.StatusCode != 503 || body != "Shutting down\n" {
		t.Errorf("creating a key: %s %q", resp.Status, body)
	}
	for _, c := range clients {
		c.Close()
	}
	n.stop()
}

// A stalled reader delays neither the drain of other clients nor the exit.
func TestDrainWithStalledReader(t *testing.T) {
	forEachTransport(t, func(t *testing.T, tr transport) {
		n := start(t)
		s := tr.subscribe(n, n.token("t"), "t")
		n.stalled(tr, "ballast")
		n.cancel()
		s.ends(drained)
		s.leave()
		n.stop()
	})
}

// Half a request head does not delay the exit. A message that has arrived in half is accepted if
// the rest comes, and the node does not wait as long for it as it does when it is not draining.
func TestDrainDuringRequests(t *testing.T) {
	n := start(t)
	half := func(request string) *bufio.Reader {
		c := dial(t, n.addr)
		if _, err := io.WriteString(c, request); err != nil {
			t.Fatal(err)
		}
		return bufio.NewReader(c)
	}
	head := request("POST", "/events?topic=t&retain=true", asAdminLine, "Content-Length: 4", "Expect: 100-continue")
	halfHead, never := half("GET / HTTP/1.1\r\nHost: bro"), half(head)
	sender := dial(t, n.addr)
	io.WriteString(sender, head)
	answer := bufio.NewReader(sender)
	for _, r := range []*bufio.Reader{never, answer} {
		// The node has started to read the body.
		if line, err := r.ReadString('\n'); err != nil || line != "HTTP/1.1 100 Continue\r\n" {
			t.Fatalf("the node sent %q, %v; want 100 Continue", line, err)
		}
		r.ReadString('\n')
	}
	io.WriteString(sender, "da")
	n.cancel()
	if got := wire.ReadAll(t, halfHead); got != "" { // it is closed once all readers have left
		t.Errorf("half a head is answered with %q", got)
	}
	io.WriteString(sender, "ta")
	if got := wire.ReadAll(t, answer); status(got) != "200 OK" || content(got) != "Published\n" {
		t.Errorf("the message that had arrived in half: %q", got)
	}
	began := time.Now()
	n.stop()
	if took := time.Since(began); took > patience/2 {
		t.Errorf("the node stopped %v later", took)
	}
}

// Bytes that a client sends after its request are ignored. A client that has sent 16 KB of them is
// closed, however slowly they come.
func TestStreamClientThatKeepsSending(t *testing.T) {
	const piece, most = 1000, 16 << 10
	check := func(t *testing.T, n *node, s *wire.SSE, w io.Writer) {
		sent := 0
		b := make([]byte, piece)
		for ; sent+piece < most; sent += piece {
			if _, err := w.Write(b); err != nil {
				t.Fatalf("after %d bytes: %v", sent, err)
			}
			n.publish("t", "x") // so the next piece comes alone
			s.Expect("event: message\ndata: x\n")
		}
		go func() { // the node may close the connection before it has all
			w.Write(b)
			w.Write(b)
		}()
		if !within(func() bool { return n.metric("pubsub_connections{") == 0 }) {
			t.Error("the connection is still open")
		}
		if _, err := io.ReadAll(s.Body); err == nil {
			t.Error("the stream looks complete")
		}
	}
	t.Run("plain", func(t *testing.T) {
		n := start(t)
		s := n.adminEvents("topic", "t")
		check(t, n, s, s.Conn)
	})
	t.Run("TLS", func(t *testing.T) {
		n := startTLS(t)
		c := n.dial()
		s := wire.Get(t, c, "/events?topic=t", asAdminLine)
		s.ExpectOpen()
		check(t, n.node, s, c)
	})
	t.Run("HTTP/2", func(t *testing.T) {
		n := startTLS(t)
		body, w := io.Pipe()
		defer w.Close()
		s := n.http2(0).send(body, "topic", "t")
		check(t, n.node, s, w)
	})
}
