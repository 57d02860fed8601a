//go:build e2e

package e2e

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"pubsub/internal/mqtt"
	"pubsub/internal/testkit/wire"
)

// openSession opens an MQTT session without a library, for tests that need hundreds of sessions or
// exact packets. keepAlive is in seconds.
func openSession(b *broker, token, id string, keepAlive uint16) (*wire.Session, error) {
	conn, err := net.DialTimeout("tcp", strings.TrimPrefix(b.url, "http://"), patience)
	if err != nil {
		return nil, err
	}
	conn.SetDeadline(time.Now().Add(patience))
	s, err := wire.Dial(conn, "Sec-WebSocket-Protocol: mqtt")
	if err == nil {
		s.Silence = patience
		var ack *mqtt.Connack
		ack, err = s.Connect(token, mqtt.Connect{ClientID: id, CleanStart: true, KeepAlive: keepAlive})
		if err == nil && ack.Reason != mqtt.Success {
			err = fmt.Errorf("CONNACK is %+v", ack)
		}
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return s, nil
}

// mustOpenSession is openSession, and closes the connection at the end of the test.
func mustOpenSession(t *testing.T, b *broker, token, id string, keepAlive uint16) *wire.Session {
	t.Helper()
	s, err := openSession(b, token, id, keepAlive)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Conn.Close() })
	return s
}
