//go:build linux

package fault_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"pubsub/internal/mqtt"
)

// publisher publishes retained messages to topics that nobody else publishes to, by
// one node after the other.
type publisher struct {
	// immutable
	name    string
	topics  []string
	token   string
	fleet   fleet
	history *history
	// once publishes by one node until ctx is done or it is time for another.
	once func(p *publisher, ctx context.Context, b *broker)
	// still is held for reading by publishers while they publish.
	still *sync.RWMutex

	// owned by its goroutine
	rand   *rand.Rand
	lines  int
	number int // in the line
}

// publish publishes until ctx is done.
func (p *publisher) publish(ctx context.Context) {
	for ctx.Err() == nil {
		b, err := p.fleet.any(ctx, p.rand)
		if err != nil {
			return
		}
		p.once(p, ctx, b)
		pause(ctx, p.rand, 50*time.Millisecond)
	}
}

// newLine begins a new line.
func (p *publisher) newLine() { p.lines, p.number = p.lines+1, 0 }

// next returns the next message, which is a clear now and then. Some topics get many
// and most get few, so that what is lost is not soon replaced.
func (p *publisher) next() *publish {
	at := p.rand.Float64()
	p.number++
	m := &publish{topic: p.topics[int(at*at*float64(len(p.topics)))], line: fmt.Sprintf("line %d of %s", p.lines, p.name), number: p.number}
	if p.rand.IntN(12) > 0 {
		m.data = fmt.Sprintf("number %d of %s %s", m.number, m.line, strings.Repeat(".", p.rand.IntN(400)))
	}
	p.history.begin(m)
	return m
}

// post publishes one message by POST.
func post(p *publisher, ctx context.Context, b *broker) {
	p.still.RLock()
	defer p.still.RUnlock()
	if ctx.Err() != nil {
		return
	}
	m := p.next()
	// The answer is waited for even if the run is over.
	req, err := http.NewRequest(http.MethodPost, "http://"+b.node.addr+"/events?retain=true&topic="+url.QueryEscape(m.topic), strings.NewReader(m.data))
	if err != nil {
		p.history.fault("connection", "a request of %s: %v", p.name, err)
		return
	}
	req.Header.Set("Authorization", "Bearer "+p.token)
	resp, err := b.http.Do(req)
	if err != nil {
		p.newLine()
		if err := b.unexplained(ctx, err); err != nil {
			p.history.fault("connection", "a POST of %s has no answer: %v", p.name, err)
		}
		return
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body) // what matters of it is the status
	switch resp.StatusCode {
	case http.StatusOK:
		v, err := parseVersion(resp.Header.Get("Pubsub-Version"))
		if err != nil {
			p.history.fault("version", "a POST of %s is answered with %v", p.name, err)
			return
		}
		p.history.acknowledge(m, v)
		return
	case http.StatusServiceUnavailable:
	default:
		p.history.fault("connection", "a POST of %s to %s is answered %s %q", p.name, b.node.name, resp.Status, body)
	}
	p.newLine() // nobody knows whether it was kept
}

// publishBySession publishes messages over one MQTT connection, each when the one
// before was taken.
func publishBySession(p *publisher, ctx context.Context, b *broker) {
	conn, err := net.Dial("tcp", b.node.addr)
	if err == nil {
		defer conn.Close()
		deadline(conn)
		var s *session
		if s, err = dialSession(conn, p.token, p.name); err == nil {
			p.newLine()
			for err == nil && ctx.Err() == nil {
				err = p.publishNext(s)
				pause(ctx, p.rand, 50*time.Millisecond)
			}
		}
	}
	if err == nil || errors.Is(err, errRefused) {
		return
	}
	if err := b.unexplained(ctx, err); err != nil {
		p.history.fault("connection", "that of %s: %v", p.name, err)
	}
}

func (p *publisher) publishNext(s *session) error {
	p.still.RLock()
	defer p.still.RUnlock()
	deadline(s.conn)
	m := p.next()
	if err := s.send(&mqtt.Publish{Topic: m.topic, Payload: []byte(m.data), Retain: true}, &mqtt.Pingreq{}); err != nil {
		return err
	}
	answer, err := s.next()
	if err == nil && answer.Type() != mqtt.TypePingresp {
		err = fmt.Errorf("instead of PINGRESP: %s %+v", answer.Type(), answer)
	}
	return err
}
