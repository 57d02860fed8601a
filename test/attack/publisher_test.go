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
type httpPublisher struct{ client *http.Client }

func newHTTPPublisher(b *broker) *httpPublisher {
	return &httpPublisher{&http.Client{Timeout: patience, Transport: &http.Transport{
		TLSClientConfig: b.tls, MaxIdleConnsPerHost: 1,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{Timeout: patience}).DialContext(ctx, "tcp", b.addr)
		},
	}}}
}

func (p *httpPublisher) publish(ctx context.Context, target, data string) error {
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

// url returns where messages for topic are posted.
func (b *broker) url(topic string) string {
	scheme := "http"
	if b.tls != nil {
		scheme = "https"
	}
	return scheme + "://" + b.addr + "/events?retain=true&topic=" + url.QueryEscape(topic)
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
