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
	"pubsub/internal/testkit/history"
	"pubsub/internal/testkit/wire"
)

// publisher publishes retained messages to topics of its own, through one node after the
// other.
type publisher struct {
	// immutable
	name    string
	topics  []string
	token   string
	nodes   nodes
	checker *checker
	// once publishes through one node, one or more messages.
	once func(p *publisher, ctx context.Context, b *broker)
	// pausing is held for reading while a publisher publishes, and for writing while
	// publishing is paused.
	pausing *sync.RWMutex

	// owned by its goroutine
	rand      *rand.Rand
	sequences int
	number    int // in the sequence
}

// publish publishes until ctx is done.
func (p *publisher) publish(ctx context.Context) {
	for ctx.Err() == nil {
		b, err := p.nodes.any(ctx, p.rand)
		if err != nil {
			return
		}
		p.once(p, ctx, b)
		pause(ctx, p.rand, 50*time.Millisecond)
	}
}

// newSequence begins a new sequence of messages.
func (p *publisher) newSequence() { p.sequences, p.number = p.sequences+1, 0 }

// next returns the next message, which is sometimes a clear. Few topics get most of the
// messages, so that a lost message of another topic is not replaced soon.
func (p *publisher) next() *message {
	at := p.rand.Float64()
	p.number++
	m := &message{topic: p.topics[int(at*at*float64(len(p.topics)))], sequence: fmt.Sprintf("sequence %d of %s", p.sequences, p.name), number: p.number}
	if p.rand.IntN(12) > 0 {
		m.data = fmt.Sprintf("number %d of %s %s", m.number, m.sequence, strings.Repeat(".", p.rand.IntN(400)))
	}
	p.checker.begin(m)
	return m
}

// post publishes one message by POST.
func post(p *publisher, ctx context.Context, b *broker) {
	p.pausing.RLock()
	defer p.pausing.RUnlock()
	if ctx.Err() != nil {
		return
	}
	m := p.next()
	// It waits for the answer even if the run is over.
	req, err := http.NewRequest(http.MethodPost, "http://"+b.node.addr+"/events?retain=true&topic="+url.QueryEscape(m.topic), strings.NewReader(m.data))
	if err != nil {
		p.checker.Add(history.Connection, "a request of %s: %v", p.name, err)
		return
	}
	req.Header.Set("Authorization", "Bearer "+p.token)
	resp, err := b.http.Do(req)
	if err != nil {
		p.newSequence()
		if err := b.unexplained(ctx, err); err != nil {
			p.checker.Add(history.Connection, "no response to a POST of %s: %v", p.name, err)
		}
		return
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body) // for a report; only the status matters
	switch resp.StatusCode {
	case http.StatusOK:
		v, err := history.ParseVersion(resp.Header.Get("Pubsub-Version"))
		if err != nil {
			p.checker.Add(history.Versions, "the response to a POST of %s: %v", p.name, err)
			return
		}
		p.checker.acknowledge(m, v)
		return
	case http.StatusServiceUnavailable:
	default:
		p.checker.Add(history.Connection, "the response to a POST of %s to %s: %s %q", p.name, b.node.name, resp.Status, body)
	}
	p.newSequence() // the message may be stored or not
}

// publishBySession publishes messages over one MQTT connection, each after the broker has
// handled the one before.
func publishBySession(p *publisher, ctx context.Context, b *broker) {
	conn, err := net.Dial("tcp", b.node.addr)
	if err == nil {
		defer conn.Close()
		deadline(conn)
		var s *wire.Session
		if s, err = dialSession(conn, p.token, p.name); err == nil {
			p.newSequence()
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
		p.checker.Add(history.Connection, "connection of %s: %v", p.name, err)
	}
}

func (p *publisher) publishNext(s *wire.Session) error {
	p.pausing.RLock()
	defer p.pausing.RUnlock()
	deadline(s.Conn)
	m := p.next()
	if err := s.Send(&mqtt.Publish{Topic: m.topic, Payload: []byte(m.data), Retain: true}, &mqtt.Pingreq{}); err != nil {
		return err
	}
	answer, err := s.Read()
	if err == nil && answer.Type() != mqtt.TypePingresp {
		err = fmt.Errorf("instead of PINGRESP: %s %+v", answer.Type(), answer)
	}
	return err
}
