package nats

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pubsub"
	"pubsub/internal/backplane/nats/layout"
	"pubsub/internal/testkit"

	"github.com/nats-io/nats.go/jetstream"
)

// noticeTime is the documented time within which nodes report a fault and its end.
const noticeTime = 15 * time.Second

// journal records the events of a node.
type journal struct {
	t testing.TB

	mu    sync.Mutex
	lines []string // guarded by mu
}

func (j *journal) add(words ...string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, strings.Join(words, " "))
}

func (j *journal) all() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.lines)
}

func (j *journal) count(line string) (n int) {
	for _, l := range j.all() {
		if l == line {
			n++
		}
	}
	return n
}

// want checks how often an event was reported.
func (j *journal) want(line string, n int) {
	j.t.Helper()
	if k := j.count(line); k != n {
		j.t.Errorf("%q was reported %d times, want %d: %q", line, k, n, j.all())
	}
}

// await waits until an event is reported for the first time.
func (j *journal) await(line string) {
	j.t.Helper()
	eventuallyWithin(j.t, noticeTime, line, func() bool { return j.count(line) == 1 })
}

// events returns the events that j records.
func (j *journal) events() Events {
	return Events{
		Fault:             func(f *Fault) { j.add(f.Event, f.Stream) },
		Recovered:         func(stream string, _ time.Duration) { j.add("recovered", stream) },
		StreamCreated:     func(stream string) { j.add("created", stream) },
		StreamPurged:      func(stream string) { j.add("purged", stream) },
		KeysReplaced:      func(stream string) { j.add("replaced", stream) },
		GenerationChanged: func(uint64, uint64) { j.add("generation changed") },
		Unreadable:        func(kind, name string, _ error) { j.add("unreadable", kind, name) },
	}
}

// newWatchedNode opens a node with a journal, which checks its streams ten times as often as
// others.
func newWatchedNode(t testing.TB, urls ...string) (*node, *journal) {
	j := &journal{t: t}
	return newNode(t, Options{URLs: urls, SyncInterval: time.Hour, checkInterval: checkInterval / 10, Events: j.events()}), j
}

// putError returns the error of a Put, which must come at once.
func (n *node) putError(topic pubsub.Topic) error {
	n.t.Helper()
	began := time.Now()
	_, err := n.tryPut(topic, "refused")
	if took := time.Since(began); took > 2*time.Second {
		n.t.Errorf("Put took %v, and then returned %v", took, err)
	}
	return err
}

func (n *node) deleteStream(stream string) {
	n.t.Helper()
	if err := n.client.js.DeleteStream(testContext(n.t), stream); err != nil {
		n.t.Fatal(err)
	}
}

// replaceStream deletes the stream of retained messages and creates it again.
func (n *node) replaceStream(c jetstream.StreamConfig) {
	n.t.Helper()
	n.deleteStream(n.stream.name())
	if _, err := n.client.js.CreateStream(testContext(n.t), c); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) purgeStream(stream string) {
	n.t.Helper()
	s, err := n.client.js.Stream(testContext(n.t), stream)
	if err == nil {
		err = s.Purge(testContext(n.t))
	}
	if err != nil {
		n.t.Fatal(err)
	}
}

// wantErrors checks that an error is an ErrUnavailable and contains want.
func wantErrors(t testing.TB, errs map[string]error, want error) {
	t.Helper()
	for name, err := range errs {
		if !errors.Is(err, want) || !errors.Is(err, pubsub.ErrUnavailable) {
			t.Errorf("%s = %v, want %v, which is %v", name, err, want, pubsub.ErrUnavailable)
		}
	}
}

// While the stream is missing, publishing and reading fail at once, and Health returns the
// reason. Keys and plain messages still work.
func TestCallsWhileStreamIsMissing(t *testing.T) {
	t.Parallel()
	n, j := newWatchedNode(t, newServer(t).url())
	ctx := testContext(t)
	n.subscribe("t")
	n.put("t", "old")
	n.deleteStream(n.stream.name())
	putError := n.putError("t")
	j.want("stream missing in NATS "+n.stream.name(), 1)
	_, _, lastError := n.Last(ctx, "t", pubsub.Version{})
	_, listError := n.List(ctx, "", "", 1)
	wantErrors(t, map[string]error{"Put": putError, "Last": lastError, "List": listError, "Health": n.Health(ctx)}, ErrMissing)
	if k := n.Stats().Faults; k != 1 {
		t.Errorf("%d faults, want 1", k)
	}
	if err := n.PutKey(ctx, pubsub.Key{ID: "k", Value: "v"}); err != nil {
		t.Errorf("PutKey: %v", err)
	}
	if err := n.Send(ctx, pubsub.Message{Topic: "t", Data: []byte("plain"), Published: time.Now()}); err != nil {
		t.Errorf("Send: %v", err)
	}
	n.awaitLast("t", "plain", pubsub.Version{})
	n.awaitHealth()
	n.publishTo(n, "t", "new")
}

// A stream that was recreated with other settings is not used. The error names the differences
// until the settings are right.
func TestStreamReplacedByAnother(t *testing.T) {
	t.Parallel()
	n, j := newWatchedNode(t, newServer(t).url())
	ctx := testContext(t)
	n.subscribe("t")
	old := n.put("t", "old")
	stream, config := n.stream.name(), n.streamConfig()
	config.MaxMsgsPerSubject, config.RePublish = 5, nil
	n.replaceStream(config)
	j.await("stream settings unusable in NATS " + stream)
	errs := map[string]error{"Health": n.Health(ctx), "Put": n.putError("t")}
	wantErrors(t, errs, ErrSettings)
	for name, err := range errs {
		if text := err.Error(); !strings.Contains(text, "max_msgs_per_subject of "+stream+" is 5 and must be 1") || !strings.Contains(text, "republish") {
			t.Errorf("%s does not name the differences: %v", name, err)
		}
	}
	if info, err := n.stream.info(ctx); err != nil || info.State.Msgs != 0 || info.Config.RePublish != nil {
		t.Errorf("the stream has %d messages and is announced to %v, %v: it was used", info.State.Msgs, info.Config.RePublish, err)
	}
	config.MaxMsgsPerSubject, config.RePublish = 1, layout.Announce(n.client.names, old.Generation)
	if _, err := n.client.js.UpdateStream(ctx, config); err != nil {
		t.Fatal(err)
	}
	n.awaitHealth()
	v := n.publishTo(n, "t", "new")
	if v.Generation == old.Generation {
		t.Errorf("version %v after %v, want another generation", v, old)
	}
}

// A stream that was recreated with the same settings is a new generation, even if it has become
// longer than the old one until that is noticed.
func TestStreamReplacedByItsLike(t *testing.T) {
	t.Parallel()
	n, _ := newWatchedNode(t, newServer(t).url())
	ctx := testContext(t)
	n.subscribe("t")
	old := n.put("t", "old")
	config := n.streamConfig()
	n.replaceStream(config)
	m := retainedMessage("t", "new")
	for range 10 { // like another node that has not noticed it either
		if _, err := n.client.js.Publish(ctx, n.client.names.Stored("t"), layout.AppendMessage(nil, &m)); err != nil {
			t.Fatal(err)
		}
	}
	eventuallyWithin(t, noticeTime, "a new generation", func() bool { return n.stream.epoch.current() != old.Generation })
	if m, ok, err := n.Last(ctx, "t", old); err != nil || !ok || string(m.Data) != "new" || m.Version.Generation == old.Generation {
		t.Errorf("Last after an old version = %q %v, %v, %v", m.Data, m.Version, ok, err)
	}
	n.checkOrder()
}

// A purge of the stream is reported. The stream still works, and its sequence numbers continue.
func TestStreamPurged(t *testing.T) {
	t.Parallel()
	n, j := newWatchedNode(t, newServer(t).url())
	n.subscribe("t")
	old := n.put("t", "old")
	n.purgeStream(n.stream.name())
	j.await("purged " + n.stream.name())
	n.wantNone("t")
	v := n.publishTo(n, "t", "new")
	if !v.Newer(old) {
		t.Errorf("version %v after %v", v, old)
	}
	if err := n.Health(testContext(t)); err != nil {
		t.Errorf("Health = %v", err)
	}
}

// Disabled JetStream is reported as such. Everything works when it is enabled again.
func TestJetStreamDisabled(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	n, j := newWatchedNode(t, s.url())
	n.subscribe("t")
	n.put("t", "old")
	account, err := s.Running.LookupAccount("$G")
	if err != nil {
		t.Fatal(err)
	}
	if err := account.DisableJetStream(); err != nil {
		t.Fatal(err)
	}
	j.await("JetStream disabled in NATS " + n.stream.name())
	j.await("JetStream disabled in NATS " + n.client.names.KeyStream())
	wantErrors(t, map[string]error{"Health": n.Health(testContext(t)), "Put": n.putError("t")}, ErrNoJetStream)
	if err := account.EnableJetStream(nil, nil); err != nil {
		t.Fatal(err)
	}
	n.awaitHealth()
	n.publishTo(n, "t", "new")
}

// A stream that gives no answer for longer than an election takes is a fault, which ends by
// itself. Before that, Health ignores a silent bucket of signing keys.
func TestStreamUnavailable(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	j := &journal{t: t}
	n := newNode(t, Options{URLs: []string{c.servers[0].url()}, SyncInterval: time.Hour, Events: j.events()})
	n.put("t", "x")
	for _, s := range c.servers[1:] {
		s.stop()
	}
	keys := n.client.names.KeyStream()
	testkit.Eventually(t, "a bucket without a leader", func() bool { return !c.servers[0].Running.JetStreamIsStreamLeader("$G", keys) })
	g := newGuard(n.stream)
	testkit.Eventually(t, "a silent bucket", func() bool { return g.check(&g.keys, adoptAny) == nil && !g.keys.silent.IsZero() })
	if len(j.all()) != 2 { // the creation of both streams
		t.Errorf("reported at once: %q", j.all())
	}
	g.keys.silent = g.keys.silent.Add(-silentAfter)
	g.check(&g.keys, adoptAny)
	j.want("stream unavailable in NATS "+keys, 1)
	if _, err := n.Keys(testContext(t)); !errors.Is(err, pubsub.ErrUnavailable) || !strings.Contains(err.Error(), "no answer for") {
		t.Errorf("Keys = %v", err)
	}
	for _, s := range c.servers[1:] {
		s.start()
	}
	testkit.Eventually(t, "an answer", func() bool { return g.check(&g.keys, adoptAny) != nil })
	j.want("recovered "+keys, 1)
	if err := n.client.faults.of(keys); err != nil {
		t.Errorf("the fault remains: %v", err)
	}
}
