//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"pubsub/internal/mqtt"

	"github.com/coder/websocket"
)

// session is an MQTT session of the tests' own, for what client libraries do not
// show or cannot do by the hundred.
type session struct {
	conn    *websocket.Conn
	packets []byte // of frames read, not yet cut into packets
}

// openSession connects with the client identifier id and the keep-alive in seconds,
// and returns once CONNACK has come.
func openSession(b *broker, token, id string, keepAlive uint16) (*session, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, _, err := websocket.Dial(ctx, b.mqttURL, &websocket.DialOptions{Subprotocols: []string{"mqtt"}})
	if err != nil {
		return nil, err
	}
	conn.SetReadLimit(1 << 20)
	s := &session{conn: conn}
	if err := s.send(&mqtt.Connect{ClientID: id, CleanStart: true, KeepAlive: keepAlive, Password: []byte(token), HasPassword: true}); err != nil {
		return nil, err
	}
	p, err := s.next()
	if err != nil {
		return nil, err
	}
	if ack, ok := p.(*mqtt.Connack); !ok || ack.Reason != mqtt.Success {
		return nil, fmt.Errorf("CONNECT is answered by %+v", p)
	}
	return s, nil
}

// mustOpenSession is openSession, and closes the connection at the end of the test.
func mustOpenSession(t *testing.T, b *broker, token, id string, keepAlive uint16) *session {
	t.Helper()
	s, err := openSession(b, token, id, keepAlive)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.conn.CloseNow() })
	return s
}

func (s *session) send(p mqtt.Packet) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return s.conn.Write(ctx, websocket.MessageBinary, p.Append(nil))
}

// next returns the next packet.
func (s *session) next() (mqtt.Packet, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		p, n, err := mqtt.Parse(s.packets)
		if err == nil {
			s.packets = s.packets[n:]
			return p, nil
		}
		if !errors.Is(err, mqtt.ErrIncomplete) {
			return nil, err
		}
		_, b, err := s.conn.Read(ctx)
		if err != nil {
			return nil, err
		}
		s.packets = append(s.packets[:len(s.packets):len(s.packets)], b...)
	}
}
