//go:build !race

// The race detector makes sync.Pool drop items at random.

package server

import (
	"bytes"
	"context"
	"sync"
	"testing"
	"time"

	"pubsub"
	"pubsub/internal/backplane/local"
	"pubsub/internal/conn"
	"pubsub/internal/hub"
	"pubsub/internal/sse"
)

// receiver is a transport that reports when want is written.
type receiver struct {
	want []byte
	got  *sync.WaitGroup
}

func (r *receiver) Write(b []byte) (int, error) {
	if bytes.Contains(b, r.want) {
		r.got.Done()
	}
	return len(b), nil
}

func (r *receiver) Finish()      {}
func (r *receiver) Unread() bool { return false }
func (r *receiver) Close() error { return nil }

// A delivery to 200 subscribers allocates for the message, not for each subscriber.
func TestDeliveryAllocatesNothingPerSubscriber(t *testing.T) {
	const subscribers = 200
	plain := pubsub.Message{Topic: "t", Data: []byte("the content")}
	expiring := plain
	expiring.HasTTL, expiring.TTL = true, 100
	for _, tc := range []struct {
		name string
		open func(*Server, *testing.T) *conn.Conn
		msg  pubsub.Message
		wait time.Duration // how long ago the message was published
	}{
		{"sse", openTestSSE("t"), plain, 0},
		{"sse durable", openTestDurable("t"), retained(plain), 0},
		{"sse durable, several topics", openTestDurable("a", "t", "z"), retained(plain), 0},
		{"mqtt", openTestMQTT(hub.SubscriptionOptions{}), plain, 0},
		{"mqtt, retain as published", openTestMQTT(hub.SubscriptionOptions{RetainAsPublished: true}), retained(plain), 0},
		{"mqtt, subscription identifier", openTestMQTT(hub.SubscriptionOptions{ID: 7}), plain, 0},
		{"mqtt, expiry counted down", openTestMQTT(hub.SubscriptionOptions{}), expiring, 10 * time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			store, err := local.Open(local.Options{InMemory: true})
			if err != nil {
				t.Fatal(err)
			}
			defer store.Close()
			h := hub.New(hub.Options{Backplane: store, Shards: 2})
			s := New(Options{Backplane: store, Hub: h, SSE: true, MQTT: true})
			ctx, stop := context.WithCancel(t.Context())
			var running, got sync.WaitGroup
			running.Go(func() { h.Run(ctx) })
			defer running.Wait()
			defer stop()

			out := &receiver{want: tc.msg.Data, got: &got}
			for range subscribers {
				c := tc.open(s, t)
				if !c.Register() {
					t.Fatal("not registered")
				}
				c.StartGoroutines(out, nil)
				defer func() { c.Close(); c.Wait() }()
			}
			seq := uint64(0)
			allocs := testing.AllocsPerRun(50, func() {
				m := tc.msg
				m.Published = time.Now().Add(-tc.wait)
				if m.Retain {
					seq++
					m.Version = pubsub.Version{Generation: 1, Seq: seq}
				}
				got.Add(subscribers)
				h.Deliver(pubsub.NewPreparedMessage(m))
				got.Wait()
			})
			t.Logf("%.1f allocations a message, for %d subscribers", allocs, subscribers)
			if allocs > subscribers/4 {
				t.Errorf("%.1f allocations a message: some are made for each of the %d subscribers", allocs, subscribers)
			}
		})
	}
}

func retained(m pubsub.Message) pubsub.Message {
	m.Retain = true
	return m
}

func openTestSSE(topic string) func(*Server, *testing.T) *conn.Conn {
	return func(s *Server, t *testing.T) *conn.Conn { return openTestStream(s, t, false, topic) }
}

func openTestDurable(topics ...string) func(*Server, *testing.T) *conn.Conn {
	return func(s *Server, t *testing.T) *conn.Conn { return openTestStream(s, t, true, topics...) }
}

func openTestStream(s *Server, t *testing.T, durable bool, topics ...string) *conn.Conn {
	req := &sseRequest{durable: durable}
	for _, topic := range topics {
		req.topics = append(req.topics, pubsub.Topic(topic))
	}
	req.since = sse.ParseLastEventID("", req.topics)
	st := &sseStream{s: s, durable: durable, chunked: true}
	initConn(t, s, &st.Conn, st, false)
	if _, err := st.subscribe(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	return &st.Conn
}

func openTestMQTT(o hub.SubscriptionOptions) func(*Server, *testing.T) *conn.Conn {
	return func(s *Server, t *testing.T) *conn.Conn {
		m := s.newWebSocketConn(loopback)
		initConn(t, s, &m.Conn, m, false)
		sub, err := m.Subscriber.Subscribe(t.Context(), "t", o)
		if err != nil {
			t.Fatal(err)
		}
		sub.Resume(nil, pubsub.Version{})
		return &m.Conn
	}
}
