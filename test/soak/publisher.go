//go:build linux

package main

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync/atomic"
	"time"

	"pubsub/internal/mqtt"
	"pubsub/internal/testkit/history"
)

// sender publishes over one connection.
type sender interface {
	// publish returns the version, if the sender learns it.
	publish(topic string, data []byte, retain bool) (history.Version, error)
	// sync returns once the broker has handled everything.
	sync() error
	// close ends the connection.
	close()
}

// poster publishes by POST.
type poster struct {
	client *http.Client
	url    string
}

func newPoster(b *broker) *poster {
	return &poster{
		client: &http.Client{Transport: &http.Transport{}, Timeout: time.Minute},
		url:    "http://" + b.Addr + "/events?topic=",
	}
}

func (p *poster) publish(topic string, data []byte, retain bool) (v history.Version, err error) {
	req, err := http.NewRequest(http.MethodPost, p.url+url.QueryEscape(topic)+"&retain="+strconv.FormatBool(retain), bytes.NewReader(data))
	if err != nil {
		return v, err
	}
	req.Header.Set("Authorization", "Bearer "+adminToken)
	resp, err := p.client.Do(req)
	if err != nil {
		return v, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return v, err
	}
	if resp.StatusCode != http.StatusOK || string(body) != "Published\n" {
		return v, fmt.Errorf("POST /events: %s %q", resp.Status, body)
	}
	if !retain {
		return v, nil
	}
	return history.ParseVersion(resp.Header.Get("Pubsub-Version"))
}

func (p *poster) sync() error { return nil } // publish has waited

func (p *poster) close() { p.client.CloseIdleConnections() }

// mqttSender publishes over MQTT.
type mqttSender struct {
	c     *mqttConn
	ended chan error // receives the error with which the reader has ended
	pong  chan struct{}
}

func newMQTTSender(b *broker, clientID string) (*mqttSender, error) {
	nc, err := net.Dial("tcp", b.Addr)
	if err != nil {
		return nil, err
	}
	c, err := openSession(nc, adminToken, clientID)
	if err != nil {
		nc.Close()
		return nil, err
	}
	s := &mqttSender{c: c, ended: make(chan error, 1), pong: make(chan struct{}, 1)}
	go func() { s.ended <- s.read() }()
	return s, nil
}

func (s *mqttSender) read() error {
	for {
		p, err := s.c.Read()
		if err != nil {
			return err
		}
		if p.Type() != mqtt.TypePingresp {
			return fmt.Errorf("a publisher receives %s %+v", p.Type(), p)
		}
		s.pong <- struct{}{}
	}
}

func (s *mqttSender) publish(topic string, data []byte, retain bool) (history.Version, error) {
	return history.Version{}, s.c.Send(&mqtt.Publish{Topic: topic, Payload: data, Retain: retain})
}

func (s *mqttSender) sync() error {
	if err := s.c.Send(&mqtt.Pingreq{}); err != nil {
		return err
	}
	select {
	case <-s.pong:
		return nil
	case err := <-s.ended:
		return err
	case <-time.After(time.Minute):
		return fmt.Errorf("no PINGRESP for a minute")
	}
}

func (s *mqttSender) close() {
	s.c.leave()
	<-s.ended
}

// published counts the messages that were sent.
type published struct {
	plain, retained atomic.Uint64
}

// publisher publishes numbered messages.
type publisher struct {
	// immutable
	index  int
	truth  *truth
	sender sender
	count  *published
	rand   *rand.Rand
	mine   []mine

	// owned by its goroutine
	seq, plain map[string]uint64
	buf        []byte
}

// mine are the topics of a class to which a publisher publishes.
type mine struct {
	class  *class
	topics []string
	due    float64 // messages that are due; owned by the publisher's goroutine
}

func newPublisher(index int, p *plan, t *truth, s sender, count *published, r *rand.Rand) *publisher {
	pub := &publisher{index: index, truth: t, sender: s, count: count, rand: r, seq: make(map[string]uint64), plain: make(map[string]uint64)}
	for _, c := range p.classes() {
		if ts := c.of(index); len(ts) > 0 {
			pub.mine = append(pub.mine, mine{class: c, topics: ts, due: r.Float64()})
		}
	}
	return pub
}

// publishUntil publishes until stop is closed.
func (p *publisher) publishUntil(stop <-chan struct{}) error {
	pace := time.NewTicker(50 * time.Millisecond)
	defer pace.Stop()
	for last := time.Now(); ; {
		select {
		case now := <-pace.C:
			passed := now.Sub(last).Seconds()
			last = now
			for i := range p.mine {
				m := &p.mine[i]
				for m.due += m.class.rate / publishers * passed; m.due >= 1; m.due-- {
					if err := p.publishAny(m); err != nil {
						return err
					}
				}
			}
		case <-stop:
			return nil
		}
	}
}

// publishAny publishes to one of the topics. Sometimes it clears the topic.
func (p *publisher) publishAny(m *mine) error {
	topic := m.topics[p.rand.IntN(len(m.topics))]
	retain := p.rand.Float64() < m.class.retained
	if retain && p.rand.IntN(30) == 0 {
		p.count.retained.Add(1)
		_, err := p.sender.publish(topic, nil, true)
		return err
	}
	size := m.class.size/2 + p.rand.IntN(m.class.size/2)
	return p.publish(topic, retain, size)
}

func (p *publisher) publish(topic string, retain bool, size int) error {
	p.seq[topic]++
	if retain {
		p.count.retained.Add(1)
	} else {
		p.count.plain.Add(1)
		p.plain[topic]++
		p.truth.topics[topic].begun[p.index].Store(p.plain[topic])
	}
	m := message{topic: topic, publisher: p.index, seq: p.seq[topic], plain: p.plain[topic], retain: retain}
	m.offset = p.truth.topics[topic].offset.Add(cost(size)) - cost(size)
	p.buf = m.appendTo(p.buf[:0], size)
	if _, err := p.sender.publish(topic, p.buf, retain); err != nil || size < maySlip/8 {
		return err
	}
	// Each publisher has only one large message under way: see maySlip.
	return p.sender.sync()
}

// overload publishes plain messages to the publisher's heavy topics, together more than the broker
// and the kernel keep for a reader that takes nothing. It returns once the broker has handled
// everything that the publisher has published.
func (p *publisher) overload(heavy *class) error {
	const enough = 2 << 20
	for _, topic := range heavy.of(p.index) {
		for range enough / heavy.size / heavy.sharers {
			if err := p.publish(topic, false, heavy.size); err != nil {
				return err
			}
		}
	}
	return p.sender.sync()
}

// end publishes a last message to each topic. It returns once the broker has handled all messages.
func (p *publisher) end() error {
	for i := range p.mine {
		for _, topic := range p.mine[i].topics {
			if err := p.publish(topic, false, 0); err != nil {
				return err
			}
			p.truth.topics[topic].ended(p.index, p.seq[topic])
		}
	}
	defer p.sender.close()
	return p.sender.sync()
}

// closeTopics publishes the last retained messages: to one topic in ten a clear.
func closeTopics(topics []string, t *truth, s *poster, count *published, r *rand.Rand) error {
	defer s.close()
	for _, topic := range topics {
		m := message{topic: topic, publisher: closer, seq: 1, retain: true}
		name, data := m.name(), m.appendTo(nil, 0)
		if r.IntN(10) == 0 {
			name, data = cleared, nil
		}
		count.retained.Add(1)
		v, err := s.publish(topic, data, true)
		if err != nil {
			return err
		}
		t.topics[topic].end(name, v)
	}
	return nil
}
