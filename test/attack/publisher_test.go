//go:build linux

package attack_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"pubsub/internal/mqtt"
	"pubsub/internal/testkit"
	"pubsub/internal/testkit/wire"
)

// record counts the messages of a topic, which are numbered.
type record struct {
	topic string
	mu    sync.Mutex
	sent  int // guarded by mu
	acked int // guarded by mu: the last number that was acknowledged
}

// message returns the next message to publish.
func (r *record) message(size int) (number int, data string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sent++
	data = strconv.Itoa(r.sent) + "/"
	return r.sent, data + strings.Repeat("x", size)
}

func (r *record) acknowledged(number int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.acked = max(r.acked, number)
}

// check checks that data, the retained message, is the last acknowledged message or a
// later one.
func (r *record) check(data string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	text, _, _ := strings.Cut(data, "/")
	if text == "" {
		text = "0"
	}
	number, err := strconv.Atoi(text)
	if err != nil || number < r.acked || number > r.sent {
		return fmt.Errorf("%s: message %.20q is retained; %d was acknowledged, %d sent", r.topic, data, r.acked, r.sent)
	}
	return nil
}

// A publisher sends retained messages to a broker, one after the other. It returns nil
// once the broker has acknowledged data. After an error it may be called again. Close
// ends its connection.
type publisher interface {
	publish(ctx context.Context, topic, data string) error
	Close()
}

// httpPublisher publishes by POST, over one connection at a time.
type httpPublisher struct {
	b      *broker
	client *http.Client
}

func newHTTPPublisher(b *broker) *httpPublisher {
	return &httpPublisher{b, &http.Client{Timeout: testkit.Patience, Transport: &http.Transport{
		TLSClientConfig: b.tls, MaxIdleConnsPerHost: 1,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{Timeout: testkit.Patience}).DialContext(ctx, "tcp", b.Addr)
		},
	}}}
}

func (p *httpPublisher) publish(ctx context.Context, topic, data string) error {
	target := p.b.base() + "/events?retain=true&topic=" + url.QueryEscape(topic)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target, strings.NewReader(data))
	if err != nil {
		return err
	}
	req.Header.Set("Fastly-Key", adminToken)
	resp, err := p.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %q", resp.Status, body)
	}
	return nil
}

func (p *httpPublisher) Close() { p.client.CloseIdleConnections() }

// mqttPublisher publishes over MQTT at QoS 1, one message at a time.
type mqttPublisher struct {
	b        *broker
	session  *wire.Session // nil unless it is connected
	packetID uint16
}

func (p *mqttPublisher) publish(ctx context.Context, topic, data string) (err error) {
	ctx, cancel := context.WithTimeout(ctx, testkit.Patience)
	defer cancel()
	defer func() {
		if err != nil {
			p.Close()
		}
	}()
	if p.session == nil {
		if err := p.connect(ctx); err != nil {
			return err
		}
	}
	defer abortWith(ctx, p.session.Conn)()
	p.packetID = max(1, p.packetID+1)
	err = p.session.Send(&mqtt.Publish{QoS: 1, Retain: true, Topic: topic, PacketID: p.packetID, Payload: []byte(data)})
	if err != nil {
		return err
	}
	answer, err := p.session.Read()
	if err != nil {
		return err
	}
	if a, ok := answer.(*mqtt.Ack); !ok || a.Kind != mqtt.TypePuback || a.PacketID != p.packetID || a.Reason.Failed() {
		return fmt.Errorf("the answer is %s %+v", answer.Type(), answer)
	}
	return nil
}

func (p *mqttPublisher) connect(ctx context.Context) error {
	conn, err := p.b.dial(ctx)
	if err != nil {
		return err
	}
	defer abortWith(ctx, conn)()
	session, err := wire.Dial(conn, "Sec-WebSocket-Protocol: mqtt")
	if err != nil {
		conn.Close()
		return err
	}
	p.session = session
	ack, err := session.Connect(adminToken, mqtt.Connect{CleanStart: true})
	if err != nil {
		return err
	}
	if ack.Reason.Failed() {
		return fmt.Errorf("CONNACK: %s", ack.Reason)
	}
	return nil
}

// abortWith aborts reads and writes of c once ctx is done, unless stop was called.
func abortWith(ctx context.Context, c net.Conn) (stop func() bool) {
	return context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })
}

// Close closes the connection without a DISCONNECT.
func (p *mqttPublisher) Close() {
	if p.session != nil {
		p.session.Conn.Close()
		p.session = nil
	}
}

// retained reads the retained messages of topics, ten at most.
func (b *broker) retained(topics []string) (map[string]string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), testkit.Patience)
	defer cancel()
	conn, err := b.dial(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(testkit.Patience))
	q := url.Values{"topic": topics, "durable": {"true"}, "envelope": {"true"}}
	stream, err := wire.Request(conn, "/events?"+q.Encode(), "Fastly-Key: "+adminToken)
	if err != nil {
		return nil, err
	}
	found := make(map[string]string)
	for len(found) < len(topics) {
		e, err := stream.Read()
		if err != nil {
			return nil, fmt.Errorf("%d of %d topics have a retained message: %w", len(found), len(topics), err)
		}
		if e.Name != "message" {
			continue
		}
		var m struct{ Topic, Data string }
		if err := json.Unmarshal([]byte(e.Data), &m); err != nil {
			return nil, err
		}
		found[m.Topic] = m.Data
	}
	return found, nil
}
