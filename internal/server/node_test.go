package server

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pubsub"
	"pubsub/internal/backplane/local"
	"pubsub/internal/hub"
	"pubsub/internal/testkit"
)

const adminToken = "the-admin-token"

// node is a broker with an embedded backplane in memory, listening over HTTP/1.1
// and HTTP/2.
type node struct {
	*Server
	backplane *faulty
	hub       *hub.Hub
	key       pubsub.Key // signs tokens
	log       *eventLog
	delivered chan *pubsub.PreparedMessage // from the Bus; messages are dropped when it is full
	h1, h2    *httptest.Server
}

// newNode starts a node; change may change its options first.
func newNode(t *testing.T, change func(*Options)) *node {
	t.Helper()
	store, err := local.Open(local.Options{InMemory: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	n := &node{
		backplane: &faulty{Backplane: store},
		key:       pubsub.Key{ID: "00112233445566aa", Value: "a secret value", Created: time.Unix(1700000000, 0)},
		log:       &eventLog{},
		delivered: make(chan *pubsub.PreparedMessage, 100),
	}
	if err := store.PutKey(t.Context(), n.key); err != nil {
		t.Fatal(err)
	}
	n.hub = hub.New(hub.Options{Backplane: n.backplane})
	o := Options{
		Backplane: n.backplane, Hub: n.hub, AdminToken: adminToken,
		SSE: true, HTTPPublish: true, MQTT: true, Admin: true,
		EnforceExpiry: true,
		Events:        n.log.events(),
	}
	if change != nil {
		change(&o)
	}
	n.Server = New(o)

	// Everything is stopped in the reverse order of its start.
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	t.Cleanup(func() { stop(); running.Wait() })
	busReady := make(chan struct{})
	running.Go(func() { n.hub.Run(ctx) })
	running.Go(func() {
		if err := n.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	running.Go(func() {
		err := n.backplane.Run(ctx, pubsub.Receiver{
			Ready: func() { close(busReady) },
			Deliver: func(p *pubsub.PreparedMessage) {
				n.hub.Deliver(p)
				select {
				case n.delivered <- p:
				default:
				}
			},
			Control: n.Control,
		})
		if err != nil {
			t.Error(err)
		}
	})
	<-busReady
	<-n.keys.ready

	n.h1 = httptest.NewServer(n.Handler())
	t.Cleanup(n.h1.Close)
	n.h2 = httptest.NewUnstartedServer(n.Handler())
	n.h2.EnableHTTP2 = true
	n.h2.StartTLS()
	t.Cleanup(n.h2.Close)
	return n
}

// token returns a JWT with the claims given, signed with n's key.
func (n *node) token(claims map[string]any) string { return testkit.Sign(n.key, claims) }

// writer returns a token to publish to topics.
func (n *node) writer(topics ...string) string {
	return n.token(map[string]any{"x-fastly-write": topics, "exp": time.Now().Add(time.Hour).Unix()})
}

// exchange is a request and the expected response.
type exchange struct {
	method, target string
	auth           string // the Authorization header
	header         map[string]string
	body           string

	status     int
	want       string            // the body, exactly
	wantHeader map[string]string // an empty value means no such header
}

// check makes the requests of a table over HTTP/1.1 and HTTP/2, and checks the responses.
func (n *node) check(t *testing.T, table []exchange) {
	t.Helper()
	for _, srv := range []*httptest.Server{n.h1, n.h2} {
		for _, x := range table {
			t.Run(fmt.Sprintf("%s %s %s", protocolOf(srv), x.method, printableTarget(x.target)), func(t *testing.T) {
				t.Helper()
				res, body := n.do(t, srv, x)
				if res.StatusCode != x.status || body != x.want {
					t.Errorf("got %d %q, want %d %q", res.StatusCode, body, x.status, x.want)
				}
				for name, want := range x.wantHeader {
					if got := strings.Join(res.Header[http.CanonicalHeaderKey(name)], " | "); got != want {
						t.Errorf("%s: got %q, want %q", name, got, want)
					}
				}
				if x.want != "" && strings.HasSuffix(x.want, "\n") {
					if got := res.Header.Get("Content-Type"); got != "text/plain; charset=utf-8" {
						t.Errorf("Content-Type: got %q", got)
					}
				}
			})
		}
	}
}

func printableTarget(s string) string { return s[:min(len(s), 60)] }

func protocolOf(srv *httptest.Server) string {
	if srv.EnableHTTP2 {
		return "h2"
	}
	return "h1"
}

// do makes the request of x and returns the response and its body. It does not follow
// redirects.
func (n *node) do(t *testing.T, srv *httptest.Server, x exchange) (*http.Response, string) {
	t.Helper()
	var body io.Reader
	if x.body != "" {
		body = strings.NewReader(x.body)
	}
	req, err := http.NewRequestWithContext(t.Context(), x.method, srv.URL, body)
	if err != nil {
		t.Fatal(err)
	}
	path, query, hasQuery := strings.Cut(x.target, "?")
	req.URL.Opaque = "//" + req.URL.Host + path // as it is, not cleaned
	req.URL.RawQuery, req.URL.ForceQuery = query, hasQuery
	for name, v := range x.header {
		req.Header[http.CanonicalHeaderKey(name)] = strings.Split(v, "\n")
	}
	if x.auth != "" {
		req.Header.Set("Authorization", x.auth)
	}
	client := srv.Client()
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if want := map[string]int{"h1": 1, "h2": 2}[protocolOf(srv)]; res.ProtoMajor != want {
		t.Fatalf("spoke %s, want HTTP/%d", res.Proto, want)
	}
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(b)
}

// subscribe subscribes to topics in n's hub until the test ends.
func (n *node) subscribe(t *testing.T, topics ...pubsub.Topic) {
	t.Helper()
	sub := new(hub.Subscriber)
	n.hub.Add(sub, idleHolder{}, "")
	t.Cleanup(sub.Close)
	for _, topic := range topics {
		if _, err := sub.Subscribe(t.Context(), topic, hub.SubscriptionOptions{}); err != nil {
			t.Fatal(err)
		}
	}
}

// idleHolder holds a subscriber that reads nothing.
type idleHolder struct{}

func (idleHolder) Wake() {}

func (idleHolder) StoreFailed(error) {}

func (idleHolder) DeadlineReached() {}

// eventLog records the Events of a Server.
type eventLog struct {
	mu sync.Mutex
	// guarded by mu
	lines []string
}

func (l *eventLog) record(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, fmt.Sprintf(format, args...))
}

func (l *eventLog) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.lines)
}

func (l *eventLog) has(line string) bool { return slices.Contains(l.all(), line) }

func (l *eventLog) events() Events {
	return Events{
		Responded: func(route, method string, status int) { l.record("responded %s %s %d", route, method, status) },
		Published: func(transport string, size int, retain bool, _ time.Duration) {
			l.record("published %s %d %v", transport, size, retain)
		},
		KeyCreated:     func(id string) { l.record("key created %s", id) },
		KeyDeleted:     func(id string) { l.record("key deleted %s", id) },
		TokenRefused:   func(reason error) { l.record("token refused: %v", reason) },
		PublishDropped: func(reason, topic string) { l.record("publish dropped %s %s", reason, topic) },
		Connected:      func(transport string) { l.record("connected %s", transport) },
		Refused:        func(transport, reason string) { l.record("refused %s %s", transport, reason) },
		Failed:         func(event string, err error) { l.record("%s: %v", event, err) },
	}
}

// faulty is a real backplane whose methods can be made to fail, and fail when their context
// is canceled, as those over a network do.
type faulty struct {
	pubsub.Backplane

	mu sync.Mutex
	// guarded by mu
	errs map[string]error // by the name of the method
	keys int              // calls of Key
}

func (f *faulty) fail(method string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.errs = maps.Clone(f.errs)
	if f.errs == nil {
		f.errs = make(map[string]error)
	}
	f.errs[method] = err
}

func (f *faulty) err(ctx context.Context, method string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	return f.errs[method]
}

func (f *faulty) Put(ctx context.Context, m pubsub.Message) func() (pubsub.Version, error) {
	if err := f.err(ctx, "Put"); err != nil {
		return func() (pubsub.Version, error) { return pubsub.Version{}, err }
	}
	return f.Backplane.Put(ctx, m)
}

func (f *faulty) Last(ctx context.Context, t pubsub.Topic, after pubsub.Version) (pubsub.Message, bool, error) {
	if err := f.err(ctx, "Last"); err != nil {
		return pubsub.Message{}, false, err
	}
	return f.Backplane.Last(ctx, t, after)
}

func (f *faulty) Send(ctx context.Context, m pubsub.Message) error {
	if err := f.err(ctx, "Send"); err != nil {
		return err
	}
	return f.Backplane.Send(ctx, m)
}

func (f *faulty) List(ctx context.Context, prefix string, after pubsub.Topic, limit int) ([]pubsub.Message, error) {
	if err := f.err(ctx, "List"); err != nil {
		return nil, err
	}
	return f.Backplane.List(ctx, prefix, after, limit)
}

func (f *faulty) Gather(ctx context.Context, c pubsub.ControlMessage) ([][]byte, error) {
	if err := f.err(ctx, "Gather"); err != nil {
		return nil, err
	}
	return f.Backplane.Gather(ctx, c)
}

func (f *faulty) Broadcast(ctx context.Context, c pubsub.ControlMessage) error {
	if err := f.err(ctx, "Broadcast"); err != nil {
		return err
	}
	return f.Backplane.Broadcast(ctx, c)
}

func (f *faulty) PutKey(ctx context.Context, k pubsub.Key) error {
	if err := f.err(ctx, "PutKey"); err != nil {
		return err
	}
	return f.Backplane.PutKey(ctx, k)
}

func (f *faulty) Keys(ctx context.Context) ([]pubsub.Key, error) {
	if err := f.err(ctx, "Keys"); err != nil {
		return nil, err
	}
	return f.Backplane.Keys(ctx)
}

func (f *faulty) Key(ctx context.Context, id string) (pubsub.Key, error) {
	f.mu.Lock()
	f.keys++
	f.mu.Unlock()
	if err := f.err(ctx, "Key"); err != nil {
		return pubsub.Key{}, err
	}
	return f.Backplane.Key(ctx, id)
}

func (f *faulty) DeleteKey(ctx context.Context, id string) error {
	if err := f.err(ctx, "DeleteKey"); err != nil {
		return err
	}
	return f.Backplane.DeleteKey(ctx, id)
}

func (f *faulty) Health(ctx context.Context) error {
	if err := f.err(ctx, "Health"); err != nil {
		return err
	}
	return f.Backplane.Health(ctx)
}

// request returns the request of x as a handler gets it, without a connection.
func request(x exchange) *http.Request {
	r := httptest.NewRequest(x.method, x.target, strings.NewReader(x.body))
	for name, v := range x.header {
		r.Header[http.CanonicalHeaderKey(name)] = strings.Split(v, "\n")
	}
	return r
}
