//go:build linux

package fault_test

import (
	"net"
	"testing"
	"time"

	"pubsub/internal/mqtt"
	"pubsub/internal/testkit"
	"pubsub/internal/testkit/process"
	"pubsub/internal/testkit/wire"
	"pubsub/internal/token"
)

// While two NATS servers are cut off from each other, a client may have a session on a node
// of each. When the servers are connected again, the older session ends, although neither
// node has lost its connection.
func TestTakeOverWhileServersAreCutOff(t *testing.T) {
	t.Parallel()
	binary, err := unchanged()
	if err != nil {
		t.Fatal(err)
	}
	cluster, between := newNATS(t, serverCount)
	c := newChecker()
	here := newNode(t, "here", binary, cluster[:1], c)
	there := newNode(t, "there", binary, cluster[1:2], c)
	both := nodes{here, there}
	for _, n := range both {
		n.start()
	}
	both.waitReady()
	key, err := process.CreateKey(here.addr, adminToken)
	if err != nil {
		t.Fatal(err)
	}
	bearer, err := token.Sign(key, token.Claims{})
	if err != nil {
		t.Fatal(err)
	}
	connect := func(n *node, clientID string) *wire.Session {
		t.Helper()
		conn, err := net.Dial("tcp", n.addr)
		if err != nil {
			t.Fatal(err)
		}
		end := time.AfterFunc(testkit.Patience, func() { conn.Close() }) // keep-alives do not prolong it
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
	p, err := older.Read()
	if d, ok := p.(*mqtt.Disconnect); err != nil || !ok || d.Reason != mqtt.SessionTakenOver {
		t.Errorf("the older session receives %+v, %v", p, err)
	}
	if err := newer.Send(&mqtt.Pingreq{}); err != nil {
		t.Fatal(err)
	}
	if p, err := newer.Read(); err != nil || p.Type() != mqtt.TypePingresp {
		t.Errorf("the newer session receives %+v, %v", p, err)
	}
	for _, v := range c.List() {
		t.Error(v)
	}
}
