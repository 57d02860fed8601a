package scenario

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pubsub/internal/config"
	"pubsub/internal/mqtt"
	"pubsub/internal/testkit/wire"
)

// siege is a node under attack, with two bystanders: a stream and an MQTT session that receive a
// heartbeat every few milliseconds.
type siege struct {
	*node
	t *testing.T

	published  atomic.Int64
	seen       [2]atomic.Int64 // by the stream and by the session
	stop       chan struct{}
	stopped    sync.WaitGroup
	goroutines int // of the whole process before the first attack
}

const heartbeats = "heartbeats"

// besiege starts a node with bystanders.
func besiege(t *testing.T, settings ...func(*config.Config)) *siege {
	t.Helper()
	// The node's log is part of the heap that attack measures.
	quiet := func(c *config.Config) { c.LogLevel = "error" }
	s := &siege{t: t, node: start(t, append(settings, quiet)...), stop: make(chan struct{})}
	stream, session, publisher := s.adminEvents("topic", heartbeats), s.adminClient(heartbeats), s.adminClient()
	s.stopped.Go(func() {
		for tick := time.Tick(3 * time.Millisecond); ; {
			select {
			case <-s.stop:
				return
			case <-tick:
			}
			p := mqtt.Publish{Topic: heartbeats, Payload: strconv.AppendInt(nil, s.published.Load()+1, 10)}
			deadline(publisher.Conn)
			if _, err := publisher.Conn.Write(wire.AppendFrame(nil, wire.FIN|wire.OpBinary, p.Append(nil))); err != nil {
				t.Errorf("the publisher of heartbeats: %v", err)
				return
			}
			s.published.Add(1)
		}
	})
	s.watch(0, func() (string, error) {
		e, err := stream.Read()
		if err == nil && e.Raw != "event: message\ndata: "+e.Data+"\n" {
			err = fmt.Errorf("the event %q", e.Raw)
		}
		return e.Data, err
	})
	s.watch(1, func() (string, error) {
		p, err := session.Read()
		if err != nil {
			return "", err
		}
		pub, ok := p.(*mqtt.Publish)
		if !ok {
			return "", fmt.Errorf("%s %+v", p.Type(), p)
		}
		return string(pub.Payload), nil
	})
	t.Cleanup(func() {
		close(s.stop)
		stream.Conn.Close()
		session.Conn.Close()
		s.stopped.Wait()
	})
	// With its first retained message, a node of a cluster subscribes to the acknowledgements of
	// all. The subscription stays.
	s.node.publish("first", "x", "retain=true")
	s.beats(10)
	s.http.CloseIdleConnections()
	s.goroutines = runtime.NumGoroutine()
	return s
}

// watch checks that a bystander receives each heartbeat, in order, and nothing else.
func (s *siege) watch(bystander int, next func() (string, error)) {
	s.stopped.Go(func() {
		for i := int64(1); ; i++ {
			got, err := next()
			select {
			case <-s.stop:
				return
			default:
			}
			if want := strconv.FormatInt(i, 10); err != nil || got != want {
				s.t.Errorf("bystander %d: want heartbeat %s, got %q, %v", bystander, want, got, err)
				return
			}
			s.seen[bystander].Store(i)
		}
	})
}

// beats waits until the bystanders have received all heartbeats published so far, and more of them.
func (s *siege) beats(more int64) {
	s.t.Helper()
	target := s.published.Load() + more
	if !within(func() bool { return s.seen[0].Load() >= target && s.seen[1].Load() >= target }) {
		s.t.Fatalf("want %d heartbeats: %d published, %d received by the stream and %d by the session", target, s.published.Load(), s.seen[0].Load(), s.seen[1].Load())
	}
}

// attack runs f, and checks that the heap, which includes the attackers, does not grow by more than
// bound bytes. A few MB of the bound are for garbage from the measurement. Afterwards the attack
// must have left nothing behind, and the bystanders must have received all heartbeats.
func (s *siege) attack(name string, bound int64, f func(t *testing.T)) {
	s.t.Helper()
	// On a loaded machine garbage and unfinished requests pile up. Without a limit these attacks
	// would cost ten times as much.
	bound *= 6
	if mode.NATS {
		bound += 64 << 20 // of the NATS server, which runs in this process too
	}
	before := heap()
	var most int64
	done, sampled := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(sampled)
		for tick := time.Tick(40 * time.Millisecond); ; {
			most = max(most, heap()-before)
			select {
			case <-done:
				return
			case <-tick:
			}
		}
	}()
	from := s.published.Load()
	s.t.Run(name, f) // its cleanup closes its connections
	s.beats(5)
	close(done)
	<-sampled
	s.t.Logf("%s: %d KB of at most %d, over %d heartbeats", name, most>>10, bound>>10, s.published.Load()-from)
	if most > bound {
		s.t.Errorf("%s: %d bytes were held, more than %d", name, most, bound)
	}
	if !within(func() bool { return s.metric("pubsub_connections{") == 3 && s.metric("pubsub_subscriptions") == 2 }) {
		s.t.Errorf("%s: %v connections and %v subscriptions remain", name, s.metric("pubsub_connections{"), s.metric("pubsub_subscriptions"))
	}
	if l := s.log.String(); strings.Contains(l, "level=ERROR") {
		s.t.Errorf("%s: the node logs the attack as an error:\n%.1000s", name, l)
	}
	s.http.CloseIdleConnections()
	if !within(func() bool { return runtime.NumGoroutine() <= s.goroutines }) {
		s.t.Errorf("%s: %d goroutines, and %d before", name, runtime.NumGoroutine(), s.goroutines)
	}
}

// each runs f count times, 16 at a time.
func each(count int, f func(i int)) {
	var next atomic.Int64
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for i := next.Add(1); i <= int64(count); i = next.Add(1) {
				f(int(i))
			}
		})
	}
	wg.Wait()
}

func randomBytes(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}
