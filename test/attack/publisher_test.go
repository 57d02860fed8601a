//go:build linux

package attack_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"

	"pubsub/internal/mqtt"
)

// record is what the publisher of a topic knows of it: its messages are numbered.
type record struct {
	topic string
	mu    sync.Mutex
	sent  int // guarded by mu
	acked int // guarded by mu: the last that was acknowledged
}

// message returns the next message to be published.
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

// check compares what the broker has retained with what it has acknowledged.
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

// A publisher sends one retained message after the other to a broker. It returns nil
// once the broker has acknowledged data; after an error it may be called again. Close
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
	return &httpPublisher{b, &http.Client{Timeout: patience, Transport: &http.Transport{
		TLSClientConfig: b.tls, MaxIdleConnsPerHost: 1,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{Timeout: patience}).DialContext(ctx, "tcp", b.addr)
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

// mqttPublisher publishes by MQTT at QoS 1, one message at a time.
type mqttPublisher struct {
	b        *broker
	conn     net.Conn // nil unless it is connected
	received []byte   // and not a whole packet yet
	packetID uint16
}

func (p *mqttPublisher) publish(ctx context.Context, topic, data string) (err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	defer func() {
		if err != nil {
			p.Close()
		}
	}()
	if p.conn == nil {
		if err := p.connect(ctx); err != nil {
			return err
		}
	}
	defer abortWith(ctx, p.conn)()
	p.packetID = max(1, p.packetID+1)
	msg := &mqtt.Publish{QoS: 1, Retain: true, Topic: topic, PacketID: p.packetID, Payload: []byte(data)}
	ack, err := p.exchange(msg)
	if err != nil {
		return err
	}
	if a, ok := ack.(*mqtt.Ack); !ok || a.Kind != mqtt.TypePuback || a.PacketID != p.packetID || a.Reason.Failed() {
		return fmt.Errorf("the answer is %s %+v", ack.Type(), ack)
	}
	return nil
}

func (p *mqttPublisher) connect(ctx context.Context) error {
	ws, resp, err := websocket.Dial(ctx, p.b.base()+"/mqtt", &websocket.DialOptions{
		Subprotocols: []string{"mqtt"}, HTTPClient: newHTTPPublisher(p.b).client,
	})
	if resp != nil && resp.Body != nil {
		resp.Body.Close()
	}
	if err != nil {
		return err
	}
	p.conn, p.received = websocket.NetConn(context.Background(), ws, websocket.MessageBinary), nil
	defer abortWith(ctx, p.conn)()
	ack, err := p.exchange(&mqtt.Connect{CleanStart: true, Password: []byte(adminToken), HasPassword: true})
	if err != nil {
		return err
	}
	if a, ok := ack.(*mqtt.Connack); !ok || a.Reason.Failed() {
		return fmt.Errorf("the answer is %s %+v", ack.Type(), ack)
	}
	return nil
}

// abortWith aborts what is under way over c once ctx is done, unless stop was called.
func abortWith(ctx context.Context, c net.Conn) (stop func() bool) {
	return context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })
}

// exchange sends a packet and returns the next that comes.
func (p *mqttPublisher) exchange(packet mqtt.Packet) (mqtt.Packet, error) {
	if _, err := p.conn.Write(packet.Append(nil)); err != nil {
		return nil, err
	}
	for {
		n, err := mqtt.PacketLen(p.received, 1<<10)
		if err != nil {
			return nil, err
		}
		if n > 0 && n <= len(p.received) {
			answer, n, err := mqtt.Parse(p.received)
			p.received = p.received[n:]
			return answer, err
		}
		var b [1 << 10]byte
		n, err = p.conn.Read(b[:])
		p.received = append(p.received, b[:n]...)
		if n == 0 && err != nil {
			return nil, err
		}
	}
}

func (p *mqttPublisher) Close() {
	if p.conn != nil {
		p.conn.SetDeadline(time.Unix(1, 0)) // it says no goodbye
		p.conn.Close()
		p.conn = nil
	}
}

// base returns the beginning of all URLs.
func (b *broker) base() string {
	if b.tls != nil {
		return "https://" + b.addr
	}
	return "http://" + b.addr
}

// retained reads what the broker has retained of topics, ten at most.
func (b *broker) retained(topics []string) (map[string]string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := b.dial(ctx)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	q := url.Values{"topic": topics, "durable": {"true"}, "envelope": {"true"}}
	if _, err := fmt.Fprintf(c, "GET /events?%s HTTP/1.1\r\nHost: broker\r\nFastly-Key: %s\r\n\r\n", q.Encode(), adminToken); err != nil {
		return nil, err
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return nil, err
	}
	found := make(map[string]string)
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20)
	for len(found) < len(topics) && lines.Scan() {
		data, ok := strings.CutPrefix(lines.Text(), `data: {"topic":`)
		if !ok {
			continue
		}
		var m struct{ Topic, Data string }
		if err := json.Unmarshal([]byte(`{"topic":`+data), &m); err != nil {
			return nil, err
		}
		found[m.Topic] = m.Data
	}
	if len(found) < len(topics) {
		return found, errors.Join(fmt.Errorf("%d of %d topics have a retained message", len(found), len(topics)), lines.Err())
	}
	return found, nil
}
