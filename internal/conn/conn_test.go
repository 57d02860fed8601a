package conn

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pubsub"
	"pubsub/internal/backplane/local"
	"pubsub/internal/hub"
)

// recorded records calls of a connection's protocol, transport and registry options.
type recorded struct {
	mu    sync.Mutex
	calls []string // guarded by mu
}

func (r *recorded) add(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls = append(r.calls, fmt.Sprintf(format, args...))
}

func (r *recorded) want(t *testing.T, calls ...string) {
	t.Helper()
	synctest.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	if !slices.Equal(r.calls, calls) {
		t.Errorf("got %q, want %q", r.calls, calls)
	}
	r.calls = nil
}

// testProtocol sends "bye" as its last bytes.
type testProtocol struct {
	Conn
	*recorded
	beforeRead func() // if not nil, called once, between control bytes and messages
}

func (p *testProtocol) Encode(w *Writer, _ *hub.Delivery, _ time.Time, last bool) {
	w.Add([]byte("message"), last)
}

func (p *testProtocol) MaxHead() int {
	if f := p.beforeRead; f != nil {
		p.beforeRead = nil
		f()
	}
	return 0
}

func (p *testProtocol) Tick(now, _ time.Time) time.Time { return now.Add(time.Hour) }
func (p *testProtocol) Readable()                       {}
func (p *testProtocol) End(Reason)                      { p.SendLast([]byte("bye")) }
func (p *testProtocol) Closed()                         { p.add("Closed") }
func (p *testProtocol) Name() string                    { return "test" }

type testTransport struct {
	*recorded
	err error // of Write
}

func (t *testTransport) Write(b []byte) (int, error) { t.add("write %s", b); return len(b), t.err }
func (t *testTransport) Finish()                     { t.add("Finish") }
func (t *testTransport) Unread() bool                { return false }
func (t *testTransport) Close() error                { t.add("transport closed"); return nil }

// withConn runs f in a bubble with a portable connection that is not registered.
func withConn(t *testing.T, f func(t *testing.T, r *Registry, p *testProtocol)) {
	synctest.Test(t, func(t *testing.T) {
		store, err := local.Open(local.Options{InMemory: true})
		if err != nil {
			t.Fatal(err)
		}
		defer store.Close()
		h := hub.New(hub.Options{Backplane: store, Shards: 1})
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { h.Run(ctx) })
		defer running.Wait()
		defer stop()

		calls := &recorded{}
		r := NewRegistry(Options{
			Hub: h, LastWords: 5 * time.Second, Began: time.Now().Add(-1), Now: time.Now,
			Connected:    func(name string) { calls.add("connected %s", name) },
			Disconnected: func(name string) { calls.add("disconnected %s", name) },
			Failed:       func(event string, err error) { calls.add("%s: %v", event, err) },
		})
		l := NewLimiter()
		slot, _ := l.Acquire(netip.Addr{}, 0, 0)
		p := &testProtocol{recorded: calls}
		p.Init(r, p, slot, false)
		f(t, r, p)
		r.Drain(t.Context(), 0)
		if l.total != 0 {
			t.Errorf("%d slots are not released", l.total)
		}
	})
}

// The states in the package comment, and who is called in which order.
func TestEnds(t *testing.T) {
	t.Run("closed before Register", func(t *testing.T) {
		withConn(t, func(t *testing.T, _ *Registry, p *testProtocol) {
			p.Close()
			p.Close()
			p.want(t, "Closed")
		})
	})
	t.Run("hijack failed", func(t *testing.T) {
		withConn(t, func(t *testing.T, _ *Registry, p *testProtocol) {
			p.Register()
			p.HijackFailed(errors.New("reason"))
			p.want(t, "hijack failed: reason", "connected test", "Closed", "disconnected test")
		})
	})
	start := func(p *testProtocol, err error) {
		p.Register()
		p.StartGoroutines(&testTransport{recorded: p.recorded, err: err}, []byte("hello"))
		go p.Wait()
	}
	t.Run("ended before the start", func(t *testing.T) {
		withConn(t, func(t *testing.T, _ *Registry, p *testProtocol) {
			p.End(KeyRevoked)
			p.End(Draining)
			start(p, nil)
			p.want(t, "connected test", "write hellobye", "Finish")
			p.Send([]byte("more"))
			p.want(t)
			time.Sleep(6 * time.Second) // LastWords, and the resolution of timers
			p.want(t, "transport closed", "Closed", "disconnected test")
		})
	})
	t.Run("drained", func(t *testing.T) {
		withConn(t, func(t *testing.T, r *Registry, p *testProtocol) {
			start(p, nil)
			p.want(t, "connected test", "write hello")
			go r.Drain(t.Context(), 0)
			p.want(t, "write bye", "Finish")
			p.Close() // the client has closed its side
			p.want(t, "transport closed", "Closed", "disconnected test")
		})
	})
	t.Run("write failed", func(t *testing.T) {
		withConn(t, func(t *testing.T, _ *Registry, p *testProtocol) {
			start(p, errors.New("reset"))
			p.want(t, "connected test", "write hello", "transport closed", "Closed", "disconnected test")
		})
	})
	t.Run("read of the store failed", func(t *testing.T) {
		withConn(t, func(t *testing.T, _ *Registry, p *testProtocol) {
			start(p, nil)
			p.want(t, "connected test", "write hello")
			(*portableHolder)(&p.Conn).StoreFailed(errors.New("reason"))
			p.want(t, "retained message read failed: reason", "transport closed", "Closed", "disconnected test")
		})
	})
	t.Run("registered while draining", func(t *testing.T) {
		withConn(t, func(t *testing.T, r *Registry, p *testProtocol) {
			r.Drain(t.Context(), 0)
			if p.Register() {
				t.Error("Register = true")
			}
			p.Close()
			p.want(t, "Closed")
		})
	})
}

// A SUBACK comes before the messages of its subscriptions, even if both come while the connection
// is being served.
func TestControlBytesComeBeforeMessages(t *testing.T) {
	withConn(t, func(t *testing.T, _ *Registry, p *testProtocol) {
		sub, err := p.Subscriber.Subscribe(t.Context(), "t", hub.SubscriptionOptions{})
		if err != nil {
			t.Fatal(err)
		}
		p.beforeRead = func() {
			p.Send([]byte("suback "))
			sub.Resume(pubsub.NewPreparedMessage(pubsub.Message{Topic: "t", Retain: true}), pubsub.Version{})
		}
		p.Register()
		p.StartGoroutines(&testTransport{recorded: p.recorded}, []byte("hello "))
		go p.Wait()
		p.want(t, "connected test", "write hello suback message")
		p.Close()
		p.want(t, "transport closed", "Closed", "disconnected test")
	})
}
