package scenario

import (
	"crypto/tls"
	"math/big"
	"os"
	"strings"
	"testing"
	"time"

	"pubsub/internal/config"
	"pubsub/internal/testkit/wire"
)

// serial returns the serial number of the certificate that a new client gets.
func (n *tlsNode) serial() *big.Int {
	n.t.Helper()
	return n.dial().ConnectionState().PeerCertificates[0].SerialNumber
}

// SIGHUP reloads the certificate: new connections get the new one, and no connection ends. A
// certificate that cannot be read changes nothing.
func TestReloadOfCertificate(t *testing.T) {
	n := startTLS(t)
	clients := []func(topic, data string){}
	for range 5 {
		s, h, m := n.events("topic", "t"), n.http2(0).events("topic", "t"), n.session("t")
		for _, s := range []*wire.SSE{s, h} {
			clients = append(clients, func(_, data string) {
				t.Helper()
				s.Expect("event: message\ndata: " + data + "\n")
			})
		}
		clients = append(clients, func(topic, data string) {
			t.Helper()
			m.Expect(topic, data)
		})
	}
	check := func(data string, serial int64) {
		t.Helper()
		n.publish("t", data)
		for _, c := range clients {
			c("t", data)
		}
		// No client has left or reconnected.
		if now, ever := n.metric("pubsub_connections{"), n.metric("pubsub_connections_opened_total"); now != 15 || ever != 15 {
			t.Errorf("%v connections now, %v ever", now, ever)
		}
		if got := n.serial(); got.Cmp(big.NewInt(serial)) != 0 {
			t.Errorf("certificate %v, want %d", got, serial)
		}
	}
	check("before", 1)
	n.writeCertificate(t, 2)
	check("before the reload", 1)
	n.change(func(*config.Config) {})
	check("after", 2)

	// Not a certificate.
	if err := os.WriteFile(n.certFile, []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	n.change(func(*config.Config) {})
	check("nonsense", 2)
	if log := n.log.String(); !strings.Contains(log, `msg="certificate reload failed"`) {
		t.Error("the unreadable certificate is not logged")
	}

	// Other files, with other names.
	n.certFile, n.keyFile = n.certFile+".new", n.keyFile+".new"
	n.writeCertificate(t, 3)
	n.change(func(c *config.Config) { c.TLSCert, c.TLSKey = config.File(n.certFile), config.File(n.keyFile) })
	check("other files", 3)
}

// SIGHUP reloads allowed origins and limits, in both directions, and no connection ends.
func TestReloadOfLimits(t *testing.T) {
	n := start(t)
	token := n.token("t")
	s, m := n.events("topic", "t", "auth", token), n.adminClient("t")
	origin := func(want, upgrade string) {
		t.Helper()
		header := []string{"Origin: https://app.example"}
		c := wire.Get(t, dial(t, n.addr), "/", header...)
		if got := c.Header.Get("Access-Control-Allow-Origin"); got != want {
			t.Errorf("Access-Control-Allow-Origin is %q, want %q", got, want)
		}
		header = append(header, wire.UpgradeHeader()...)
		c = wire.Get(t, dial(t, n.addr), "/mqtt", header...)
		if !strings.HasPrefix(c.Status, "HTTP/1.1 "+upgrade) {
			t.Errorf("upgrade: %s, want %s", c.Status, upgrade)
		}
		c.Conn.Close()
		n.connections(t, 2)
	}
	live := func(data string) {
		t.Helper()
		n.publish("t", data)
		s.Expect("event: message\ndata: " + data + "\n")
		m.Expect("t", data)
	}
	origin("*", "101")
	n.change(func(c *config.Config) { c.AllowedOrigins = []string{"https://other.example"} })
	origin("", "403")
	live("other origins")
	n.change(func(c *config.Config) {
		c.AllowedOrigins = append(c.AllowedOrigins, "https://app.example")
	})
	origin("https://app.example", "101")
	n.change(func(c *config.Config) { c.AllowedOrigins = nil })
	origin("*", "101")

	// Below the number of clients: they stay, and no others are accepted.
	n.change(func(c *config.Config) { c.MaxConnections = 1 })
	for _, tr := range transports {
		tr.refused(n, token, "t")
		n.connections(t, 2)
	}
	live("fewer connections")
	n.change(func(c *config.Config) { c.MaxConnections, c.MaxConnectionsPerIP = 0, 1 })
	one := n.events("topic", "t", "auth", token)
	refusedSSE(n, token, "t")
	one.Conn.Close()
	n.connections(t, 2)
	n.change(func(c *config.Config) { c.MaxConnectionsPerIP, c.PublishRate = 0, 1 })
	post := func() int {
		resp, _ := n.do("POST", n.url("/events?topic=u"), map[string]string{"Authorization": "Bearer " + n.token("u")}, "x")
		return resp.StatusCode
	}
	if !within(func() bool { return post() == 429 }) {
		t.Error("the new publish-rate has no effect")
	}
	n.change(func(c *config.Config) { c.PublishRate = 0 })
	for range 20 {
		if got := post(); got != 200 {
			t.Fatalf("without a limit: %d", got)
		}
	}
	live("the end")
}

// SIGHUP reloads the log level, and logs the changed settings that need a restart. Those keep their
// old values.
func TestReloadReportsSettingsThatNeedRestart(t *testing.T) {
	n := start(t, func(c *config.Config) { c.LogLevel = "warn" })
	refuse := func() {
		c := wire.Get(t, dial(t, n.addr), "/events?topic=t&auth=nonsense", lastRequest)
		c.Next()
		c.ExpectEnd()
	}
	const debugLine = "level=DEBUG msg=\"token refused\""
	refuse()
	if log := n.log.String(); log != "" {
		t.Errorf("the log at level warn is %q", log)
	}
	n.change(func(c *config.Config) { c.LogLevel = "debug" })
	refuse()
	log := n.log.String()
	if !strings.Contains(log, debugLine) {
		t.Error("no debug lines")
	}
	if strings.Contains(log, "restart") {
		t.Errorf("the log level needs no restart: %s", log)
	}
	n.change(func(c *config.Config) {
		c.LogLevel = "info"
		c.SSE = false
		c.MaxMessageSize = 100
		c.WriteTimeout = time.Minute
		c.AdminToken = "another-token"
		c.TLSCert, c.TLSKey = "cert.pem", "key.pem" // the node does not serve TLS yet
		c.MaxConnections = 5
	})
	log = n.log.String()[len(log):]
	for _, name := range []string{"sse", "max-message-size", "write-timeout", "admin-token", "tls-cert", "tls-key"} {
		if i := strings.Index(log, "restart needed"); i < 0 || !strings.Contains(log[i:], name) {
			t.Errorf("%s is not logged as needing a restart: %s", name, log)
		}
	}
	if i := strings.Index(log, "restart needed"); i >= 0 && strings.Contains(log[i:strings.IndexByte(log[i:], '\n')+i], "max-connections") {
		t.Error("max-connections is logged as needing a restart")
	}
	if strings.Contains(log, "another-token") || strings.Contains(log, adminToken) {
		t.Error("the log contains an admin token")
	}
	n.change(func(c *config.Config) { c.TLSCert, c.TLSKey = "", "" })
	n.publish("t", strings.Repeat("x", 200))
	n.adminEvents("topic", "t")
	if conn, err := tls.Dial("tcp", n.addr, &tls.Config{InsecureSkipVerify: true}); err == nil {
		conn.Close()
		t.Error("the node serves TLS")
	}
}
