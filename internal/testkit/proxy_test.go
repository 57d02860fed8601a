package testkit_test

import (
	"io"
	"net"
	"testing"
	"time"

	"pubsub/internal/testkit"
)

// connect returns both ends of a connection through a new proxy.
func connect(t *testing.T) (p *testkit.Proxy, client, server net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	p = testkit.NewProxy(t, l.Addr().String())
	if client, err = net.Dial("tcp", p.Addr()); err != nil {
		t.Fatal(err)
	}
	if server, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []net.Conn{client, server} {
		t.Cleanup(func() { c.Close() })
		c.SetDeadline(time.Now().Add(testkit.Patience))
	}
	return p, client, server
}

// pass checks that text arrives.
func pass(t *testing.T, from, to net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(from, text); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, len(text))
	if _, err := io.ReadFull(to, b); err != nil || string(b) != text {
		t.Fatalf("%q, %v, want %q", b, err, text)
	}
}

// Bytes wait while their direction is silent, and arrive afterwards.
func TestProxySilence(t *testing.T) {
	p, client, server := connect(t)
	pass(t, client, server, "to the target")
	pass(t, server, client, "from the target")
	p.SetSilent(true, false)
	if _, err := io.WriteString(server, "held"); err != nil {
		t.Fatal(err)
	}
	for i := range 10 { // long enough for bytes that are not held
		pass(t, client, server, string(rune('0'+i)))
	}
	client.SetReadDeadline(time.Now())
	if n, err := client.Read(make([]byte, 1)); n > 0 || err == nil {
		t.Errorf("%d bytes came through, %v", n, err)
	}
	client.SetReadDeadline(time.Now().Add(testkit.Patience))
	p.SetSilent(false, false)
	b := make([]byte, 4)
	if _, err := io.ReadFull(client, b); err != nil || string(b) != "held" {
		t.Errorf("%q, %v", b, err)
	}
}

// A cut ends connections, loses bytes that wait, and refuses new connections.
func TestProxyCut(t *testing.T) {
	p, client, server := connect(t)
	p.SetSilent(false, true)
	if _, err := io.WriteString(client, "lost"); err != nil {
		t.Fatal(err)
	}
	if !p.InUse() {
		t.Error("not in use")
	}
	p.SetCut(true)
	p.SetSilent(false, false)
	for name, c := range map[string]net.Conn{"client": client, "server": server} {
		if b, _ := io.ReadAll(c); len(b) > 0 {
			t.Errorf("%s: received %q", name, b)
		}
	}
	testkit.Eventually(t, "no connection", func() bool { return !p.InUse() })
	c, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(testkit.Patience))
	if n, err := c.Read(make([]byte, 1)); n > 0 || err == nil {
		t.Errorf("through a cut link: %d bytes, %v", n, err)
	}
}
