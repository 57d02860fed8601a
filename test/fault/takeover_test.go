//go:build linux

package fault_test

import (
	"net"
	"testing"
	"time"

	"pubsub/internal/mqtt"
	"pubsub/internal/testkit"
	"pubsub/internal/testkit/process"
	"pubsub/internal/token"
)

// A client that comes back to a node whose NATS server is cut off from that of the
// node where its session is has two sessions only until the servers hear each other
// again: then the older one ends, although neither node has lost its connection.
func TestTakeOverWhileServersAreCutOff(t *testing.T) {
	t.Parallel()
	binary, err := asItIs()
	if err != nil {
		t.Fatal(err)
	}
	cluster, between := newNATS(t, servers)
	h, logs := newHistory(), t.TempDir()
	here := newNode(t, "here", binary, logs, cluster[:1], h)
	there := newNode(t, "there", binary, logs, cluster[1:2], h)
	both := fleet{here, there}
	for _, n := range both {
		n.start()
	}
	both.ready()
	key, err := process.CreateKey(here.addr, adminToken)
	if err != nil {
		t.Fatal(err)
	}
	bearer, err := token.Sign(key, token.Claims{})
	if err != nil {
		t.Fatal(err)
	}
	connect := func(n *node, clientID string) *session {
		t.Helper()
		conn, err := net.Dial("tcp", n.addr)
		if err != nil {
			t.Fatal(err)
		}
		end := time.AfterFunc(testkit.Patience, func() { conn.Close() }) // whatever keep-alives come
		t.Cleanup(func() {
			end.Stop()
			conn.Close()
		})
		s, err := dialSession(conn, bearer, clientID)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	older := connect(here, "client")
	connect(there, "another") // now both nodes know the key
	heal := cut(between.of(0)...)
	newer := connect(there, "client")
	heal()
	p, err := older.next()
	if d, ok := p.(*mqtt.Disconnect); err != nil || !ok || d.Reason != mqtt.SessionTakenOver {
		t.Errorf("the older session is told %+v, %v", p, err)
	}
	if err := newer.send(&mqtt.Pingreq{}); err != nil {
		t.Fatal(err)
	}
	if p, err := newer.next(); err != nil || p.Type() != mqtt.TypePingresp {
		t.Errorf("the newer session has %+v, %v", p, err)
	}
	for _, f := range h.found() {
		t.Error(f)
	}
}
