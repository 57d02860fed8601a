package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/coder/websocket"

	"pubsub/internal/mqtt"
)

const (
	// mqttKeepAlive is the requested keep-alive, in seconds.
	mqttKeepAlive = 60
	// maxPacketBytes bounds a packet: a message with its topic and properties.
	maxPacketBytes = MaxMessageBytes + 1<<20
	// subscribePacketID is the packet identifier of the only SUBSCRIBE.
	subscribePacketID = 1
)

// SubscribeMQTT subscribes by MQTT 5 over WebSocket and reconnects after interruptions. It
// returns nil when ctx is done, and an error if the subscription fails for good. After each
// connection the retained messages come first.
func (c *Client) SubscribeMQTT(ctx context.Context, s Subscription) error {
	return s.subscribe(ctx, func(ctx context.Context) attempt {
		return c.session(ctx, &s)
	})
}

// session runs one MQTT connection.
func (c *Client) session(ctx context.Context, s *Subscription) attempt {
	dialing, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	ws, resp, err := websocket.Dial(dialing, c.base.JoinPath("mqtt").String(), &websocket.DialOptions{
		HTTPClient: c.http, Subprotocols: []string{"mqtt"},
	})
	if err != nil {
		switch {
		case resp == nil || resp.StatusCode == http.StatusSwitchingProtocols:
			return attempt{err: c.unreachable(err)}
		case resp.StatusCode/100 == 2:
			return attempt{err: c.foreignError(resp)}
		}
		return attempt{err: c.responseError(resp)}
	}
	// The connection outlives ctx by the DISCONNECT that is sent at the end.
	conn := websocket.NetConn(context.Background(), ws, websocket.MessageBinary)
	m := &mqttConn{conn: conn, sub: s, keepAlive: mqttKeepAlive * time.Second}
	ended := make(chan struct{})
	disconnect := func() {
		defer close(ended)
		_ = m.send(&mqtt.Disconnect{}) // best effort: the connection ends in any case
		conn.Close()
	}
	stop := context.AfterFunc(ctx, disconnect)
	m.run()
	if !m.attempt.opened && errors.Is(m.attempt.err, errNoAnswer) {
		m.attempt.err = c.unreachable(context.DeadlineExceeded)
	}
	if stop() {
		disconnect()
	}
	<-ended
	if m.pinging != nil {
		<-m.pinging
	}
	return m.attempt
}

// mqttConn is the client's end of an MQTT connection.
type mqttConn struct {
	conn net.Conn
	sub  *Subscription

	// Owned by run.
	keepAlive time.Duration
	pinging   chan struct{} // closed when the goroutine that pings has returned
	attempt   attempt
}

// run connects, subscribes, and handles packets until the connection ends.
func (m *mqttConn) run() {
	done := make(chan struct{})
	defer close(done)
	m.attempt.err = m.send(&mqtt.Connect{
		CleanStart: true, KeepAlive: mqttKeepAlive, MaximumPacketSize: maxPacketBytes,
		Password: []byte(m.sub.Token), HasPassword: true,
	})
	var buf []byte
	for m.attempt.err == nil {
		var p mqtt.Packet
		if p, buf, m.attempt.err = m.read(buf); m.attempt.err == nil {
			m.attempt.err = m.handle(p, done)
		}
	}
}

// read returns the next packet, which shares memory with buf, and the bytes that were read
// after it.
func (m *mqttConn) read(buf []byte) (mqtt.Packet, []byte, error) {
	for {
		n, err := mqtt.PacketLen(buf, maxPacketBytes)
		if err != nil {
			return nil, nil, err
		}
		if n > 0 && n <= len(buf) {
			p, n, err := mqtt.Parse(buf)
			return p, buf[n:], err
		}
		// The client pings twice in each keep-alive, and the server answers each ping.
		var deadline time.Time
		switch {
		case !m.attempt.opened:
			deadline = time.Now().Add(requestTimeout)
		case m.keepAlive > 0:
			deadline = time.Now().Add(m.keepAlive * 3 / 2)
		}
		if err := m.conn.SetReadDeadline(deadline); err != nil {
			return nil, nil, err
		}
		// A new array, because packets that were returned share the old one.
		if len(buf) == cap(buf) {
			buf = append(make([]byte, 0, max(4<<10, 2*len(buf))), buf...)
		}
		got, err := m.conn.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+got]
		if got == 0 && err != nil {
			return nil, nil, webSocketError(err)
		}
	}
}

// handle handles a packet from the server.
func (m *mqttConn) handle(p mqtt.Packet, done <-chan struct{}) error {
	switch p := p.(type) {
	case *mqtt.Connack:
		if p.Reason.Failed() {
			return connectError(p.Reason)
		}
		if p.HasServerKeepAlive {
			m.keepAlive = time.Duration(p.ServerKeepAlive) * time.Second
		}
		m.ping(done)
		s := &mqtt.Subscribe{PacketID: subscribePacketID}
		for _, t := range m.sub.Topics {
			s.Filters = append(s.Filters, mqtt.Filter{Topic: t})
		}
		return m.send(s)
	case *mqtt.Suback:
		for i, reason := range p.Reasons {
			if reason.Failed() && i < len(m.sub.Topics) {
				return subscribeError(reason, m.sub.Topics[i])
			}
		}
		m.attempt.opened = true
		if m.sub.Open != nil {
			m.sub.Open()
		}
	case *mqtt.Publish:
		if err := m.sub.Message(Message{Topic: p.Topic, Data: bytes.Clone(p.Payload)}); err != nil {
			return &consumerError{err}
		}
	case *mqtt.Disconnect:
		return disconnectError(p.Reason)
	case *mqtt.Pingresp:
	default:
		return fmt.Errorf("the server sent an unexpected packet: %s", p.Type())
	}
	return nil
}

// ping starts a goroutine that pings the server twice in each keep-alive, until done is
// closed.
func (m *mqttConn) ping(done <-chan struct{}) {
	if m.pinging != nil || m.keepAlive == 0 {
		return
	}
	m.pinging = make(chan struct{})
	tick := time.NewTicker(m.keepAlive / 2)
	go func() {
		defer close(m.pinging)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				if err := m.send(&mqtt.Pingreq{}); err != nil {
					return // read fails too, and returns the reason
				}
			}
		}
	}()
}

// send sends a packet as one WebSocket message. It is safe for concurrent use.
func (m *mqttConn) send(p mqtt.Packet) error {
	_, err := m.conn.Write(p.Append(nil))
	return err
}

func connectError(r mqtt.ReasonCode) error {
	switch r {
	case mqtt.NotAuthorized, mqtt.BadUserNameOrPassword:
		return &Error{Condition: Forbidden, Text: "Invalid token"}
	case mqtt.QuotaExceeded:
		return &Error{Condition: "too-many-connections", Text: "Too many connections"}
	case mqtt.ServerUnavailable, mqtt.ServerBusy, mqtt.ServerShuttingDown, mqtt.ConnectionRateExceeded, mqtt.UnspecifiedError:
		return &Error{Text: "the server refused the connection: " + r.String()}
	}
	return &Error{Condition: BadRequest, Text: "the server refused the connection: " + r.String()}
}

func subscribeError(r mqtt.ReasonCode, topic string) error {
	switch r {
	case mqtt.NotAuthorized:
		return &Error{Condition: Forbidden, Text: "Cannot subscribe to topic: " + oneLine(topic)}
	case mqtt.TopicFilterInvalid, mqtt.WildcardSubscriptionsNotSupported, mqtt.SharedSubscriptionsNotSupported:
		return &Error{Condition: BadRequest, Text: "Invalid topic: " + oneLine(topic)}
	}
	return &Error{Text: "the server refused the subscription: " + r.String()}
}

func disconnectError(r mqtt.ReasonCode) error {
	switch r {
	case mqtt.NotAuthorized:
		return &Error{Condition: TokenExpired, Text: "Token expired or revoked"}
	case mqtt.SessionTakenOver:
		return &Error{Condition: TakenOver, Text: "another client has taken over"}
	}
	return &Error{Text: "the server ended the session: " + r.String()}
}

// webSocketError returns a readable error for a failed read from a WebSocket.
func webSocketError(err error) error {
	if ce := (websocket.CloseError{}); errors.As(err, &ce) {
		return fmt.Errorf("the server closed the connection: WebSocket close %d", ce.Code)
	}
	return readError(err)
}
