package scenario

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"pubsub/internal/config"
	"pubsub/internal/mqtt"
	"pubsub/internal/testkit/wire"
)

// fleet is a set of nodes behind a load balancer that knows which of them are ready.
type fleet struct {
	mu    sync.Mutex
	nodes []*node // guarded by mu
}

// any returns one of the nodes that are ready.
func (f *fleet) any(r *rand.Rand) *node {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.nodes[r.IntN(len(f.nodes))]
}

// replace removes node i, stops it, and adds another one.
func (f *fleet) replace(i int, next func() *node) {
	f.mu.Lock()
	old := f.nodes[i]
	f.nodes = append(f.nodes[:i:i], f.nodes[i+1:]...)
	f.mu.Unlock()
	old.stop()
	n := next()
	f.mu.Lock()
	f.nodes = append(f.nodes, n)
	f.mu.Unlock()
}

// follower is a subscriber that reconnects, to any node, whenever its connection has ended. Its
// value of a topic must never decrease.
type follower struct {
	name   string
	topics []string
	rand   *rand.Rand // owned by its goroutine

	mu     sync.Mutex
	has    map[string]int // guarded by mu: the last value of each topic
	begun  int            // guarded by mu: connections
	failed string         // guarded by mu: the last wrong message
}

func (s *follower) got(topic, data string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, err := strconv.Atoi(data)
	if err != nil || v < s.has[topic] {
		s.failed = fmt.Sprintf("%s has %d of topic %s, and then %q (%v)", s.name, s.has[topic], topic, data, err)
	}
	s.has[topic] = v
}

// follow reads from one node after another until ctx is done. It ignores the errors that end
// connections: the test checks in the end that the follower has all values.
func (s *follower) follow(ctx context.Context, f *fleet, once func(ctx context.Context, n *node) error) {
	for ctx.Err() == nil {
		s.mu.Lock()
		s.begun++
		s.mu.Unlock()
		if once(ctx, f.any(s.rand)) != nil {
			time.Sleep(time.Duration(s.rand.IntN(20)) * time.Millisecond) // as a client's backoff
		}
	}
}

// open connects, sends a request and reads the head of the response.
func open(ctx context.Context, n *node, target string, header ...string) (net.Conn, *bufio.Reader, error) {
	conn, err := net.Dial("tcp", n.addr)
	if err != nil {
		return nil, nil, err
	}
	context.AfterFunc(ctx, func() { conn.Close() })
	deadline(conn)
	io.WriteString(conn, "GET "+target+" HTTP/1.1\r\nHost: broker\r\n"+strings.Join(append(header, "\r\n"), "\r\n"))
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, nil)
	if err == nil && resp.StatusCode != http.StatusSwitchingProtocols {
		r = bufio.NewReader(resp.Body)
	}
	return conn, r, err
}

// events returns a function that reads a durable stream, which resumes where the last one ended.
func (s *follower) events(token string) func(ctx context.Context, n *node) error {
	lastID := ""
	return func(ctx context.Context, n *node) error {
		pairs := []string{"durable", "true", "envelope", "false", "auth", token}
		for _, topic := range s.topics {
			pairs = append(pairs, "topic", topic)
		}
		header := []string{}
		if lastID != "" {
			header = append(header, "Last-Event-ID: "+lastID)
		}
		conn, r, err := open(ctx, n, "/events"+wire.Query(pairs...), header...)
		if err != nil {
			return err
		}
		defer conn.Close()
		c := &wire.SSE{Stream: wire.Stream{Conn: conn, Body: r}}
		for {
			e, err := c.Read()
			if err != nil {
				return err
			}
			if e.HasID {
				lastID = e.ID
				topic, value, _ := strings.Cut(e.Data, " ")
				s.got(topic, value)
			}
		}
	}
}

// session returns a function that reads an MQTT session.
func (s *follower) session(token string) func(ctx context.Context, n *node) error {
	connect := mqtt.Connect{ClientID: s.name, Password: []byte(token), HasPassword: true}
	subscribe := mqtt.Subscribe{PacketID: 1}
	for _, topic := range s.topics {
		subscribe.Filters = append(subscribe.Filters, mqtt.Filter{Topic: topic})
	}
	hello := wire.AppendFrame(nil, wire.FIN|wire.OpBinary, wire.AppendPackets(nil, &connect, &subscribe))
	return func(ctx context.Context, n *node) error {
		conn, r, err := open(ctx, n, "/mqtt", wire.UpgradeHeader()...)
		if err != nil {
			return err
		}
		defer conn.Close()
		if _, err := conn.Write(hello); err != nil {
			return err
		}
		m := &wire.MQTT{Session: wire.Session{Conn: conn, R: r}}
		for {
			p, err := m.Read()
			if err != nil {
				return err
			}
			if pub, ok := p.(*mqtt.Publish); ok {
				topic, value, _ := strings.Cut(string(pub.Payload), " ")
				s.got(topic, value)
			}
		}
	}
}

// publishUntilAccepted publishes a value of a topic to any node, until one accepts it.
func (f *fleet) publishUntilAccepted(r *rand.Rand, topic string, value int) error {
	var last error
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(time.Duration(r.IntN(10)) * time.Millisecond) {
		n := f.any(r)
		resp, body, err := n.request(http.MethodPost, n.url("/events?retain=true&topic="+url.QueryEscape(topic)), asAdmin(), fmt.Sprint(topic, " ", value))
		if err == nil && resp.StatusCode == 200 {
			return nil
		}
		last = fmt.Errorf("%v, %q", err, body)
	}
	return last
}

// Three nodes are restarted one after another, twice, while messages are published and read. Every
// client receives the last value of each of its topics, and never an older value after a newer one.
func TestClusterRollingRestart(t *testing.T) {
	const publishers, topicsEach, followers, rounds = 4, 5, 24, 2
	own := ownBroker(startNATS(t))
	settings := []func(*config.Config){own, func(c *config.Config) {
		c.DrainTimeout, c.LogLevel = 200*time.Millisecond, "warn"
	}}
	first := start(t, settings...)
	next := func() *node { n := launch(t, settings...); n.key = first.key; return n }
	f := &fleet{nodes: []*node{first, next(), next()}}

	var topics []string
	for i := range publishers * topicsEach {
		topics = append(topics, fmt.Sprint("t", i))
	}
	token := first.token(topics...)
	ctx, leave := context.WithCancel(context.Background())
	var reading sync.WaitGroup
	defer reading.Wait()
	defer leave()
	var all []*follower
	r := newRand(7)
	for i := range followers {
		s := &follower{name: fmt.Sprint("follower ", i), has: map[string]int{}, rand: newRand(100 + uint64(i))}
		for _, k := range r.Perm(len(topics))[:6] {
			s.topics = append(s.topics, topics[k])
		}
		all = append(all, s)
		once := s.events(token)
		if i%2 == 1 {
			once = s.session(token)
		}
		reading.Go(func() { s.follow(ctx, f, once) })
	}

	stop := make(chan struct{})
	final := make([]int, len(topics)) // each owned by its topic's publisher until all have stopped
	var publishing sync.WaitGroup
	for p := range publishers {
		r := newRand(200 + uint64(p))
		publishing.Go(func() {
			for v := 1; ; v++ {
				for i := p * topicsEach; i < (p+1)*topicsEach; i++ {
					if err := f.publishUntilAccepted(r, topics[i], v); err != nil {
						t.Errorf("publishing to %s: %v", topics[i], err)
						return
					}
					final[i] = v
				}
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	for range rounds * 3 {
		f.replace(0, next) // the oldest node
	}
	close(stop)
	publishing.Wait()

	right := func(s *follower) bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, topic := range s.topics {
			i, _ := strconv.Atoi(topic[1:])
			if s.has[topic] != final[i] {
				return false
			}
		}
		return true
	}
	connections := 0
	for _, s := range all {
		if !within(func() bool { return right(s) }) {
			t.Errorf("%s ends with %v; the last values are %v", s.name, s.has, final)
		}
		s.mu.Lock()
		if s.failed != "" {
			t.Error(s.failed)
		}
		connections += s.begun
		s.mu.Unlock()
	}
	if connections <= followers {
		t.Errorf("%d connections of %d followers: none had to reconnect", connections, followers)
	}
	t.Logf("%d followers, %d connections, last values %v", followers, connections, final)
}
