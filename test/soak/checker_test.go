//go:build linux

package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pubsub/internal/testkit/history"
)

// fakeRun is a made-up history of a subscriber to topics a and b, to both of which publishers 0 and
// 1 publish.
type fakeRun struct {
	*checker
	seq, plain map[string]uint64
	version    uint64
	versions   map[string]uint64 // of topics of which the subscriber has a retained message
}

func newFakeRun(k kind) *fakeRun {
	c := newChecker("the subscriber", k, []string{"a", "b"}, newTruth([]string{"a", "b", "c"}, 2), new(history.Violations))
	return &fakeRun{checker: c, seq: make(map[string]uint64), plain: make(map[string]uint64), versions: make(map[string]uint64)}
}

// publish publishes the next message of a publisher.
func (t *fakeRun) publish(topic string, publisher int, retain bool) message {
	from := fmt.Sprint(topic, publisher)
	t.seq[from]++
	if !retain {
		t.plain[from]++
		t.truth.topics[topic].begun[publisher].Store(t.plain[from])
	}
	offset := t.truth.topics[topic].offset.Add(cost(100)) - cost(100)
	return message{topic: topic, publisher: publisher, seq: t.seq[from], plain: t.plain[from], offset: offset, retain: retain}
}

// overflow publishes more than may be unread, if a few other messages follow.
func (t *fakeRun) overflow() {
	for _, topic := range []string{"a", "b"} {
		t.truth.topics[topic].offset.Add(subscriberBuffer)
	}
}

// id returns the id of the next retained message to topic.
func (t *fakeRun) id(topic string) string {
	t.version++
	t.versions[topic] = t.version
	return t.current()
}

func (t *fakeRun) current() string {
	var parts []string
	for topic, v := range t.versions {
		parts = append(parts, fmt.Sprintf("%s:%016x-%d", topic, 7, v))
	}
	slices.Sort(parts)
	return strings.Join(parts, ",")
}

// send publishes a message, and the subscriber receives it.
func (t *fakeRun) send(topic string, publisher int, retain bool) {
	t.deliver(t.publish(topic, publisher, retain))
}

// deliver makes the subscriber receive m.
func (t *fakeRun) deliver(m message) {
	id := ""
	if m.retain && t.kind == durableStream {
		id = t.id(m.topic)
	}
	t.message(m, id)
}

// begin opens a connection and primes it.
func (t *fakeRun) begin() {
	t.open()
	for _, topic := range []string{"a", "b"} {
		for publisher := range 2 {
			t.send(topic, publisher, false)
		}
	}
}

// finish publishes a last message of each publisher and the last retained messages, and ends
// the history. The subscriber does not receive those in without.
func (t *fakeRun) finish(without ...string) {
	for _, topic := range []string{"a", "b"} {
		for publisher := range 2 {
			m := t.publish(topic, publisher, false)
			t.truth.topics[topic].ended(publisher, m.seq)
			if !slices.Contains(without, fmt.Sprint("last ", topic, publisher)) {
				t.deliver(m)
			}
		}
		m := t.publish(topic, 1, true)
		if !slices.Contains(without, "retained "+topic) {
			t.deliver(m)
		} else {
			t.version++
		}
		t.truth.topics[topic].end(m.name(), t.last())
	}
	t.end()
}

func (t *fakeRun) last() history.Version {
	return history.Version{Generation: fmt.Sprintf("%016x", 7), Seq: t.version}
}

// faultless plays a history with everything that may happen.
func faultless(t *fakeRun) {
	t.begin()
	t.send("a", 0, true)
	t.send("b", 1, true)
	t.send("a", 1, true)
	if !t.primed() {
		t.add(history.Broker, "not primed")
	}
	t.overflow()
	t.publish("a", 0, false) // lost
	t.publish("a", 1, false) // lost
	t.publish("a", 0, true)  // replaced
	if t.kind != session {
		t.dropped(2)
	}
	t.send("a", 1, true)
	t.send("a", 0, false)
	t.send("a", 1, false)
	t.closed(false)
	for range 3 {
		t.publish("a", 0, false) // while it is away
	}
	old := t.publish("b", 0, true) // the same with a retained message
	under := t.publish("b", 0, false)
	t.open()
	t.deliver(old)
	t.deliver(under) // was on its way when the subscription began
	t.send("b", 0, false)
	t.send("b", 1, false)
	switch t.kind {
	case session:
		t.clear("a", "")
	case durableStream:
		t.clear("", t.id("a"))
	case plainStream:
		t.clear("", "")
	}
	t.send("a", 0, false)
	t.send("a", 1, false)
	t.finish()
}

func TestFaultless(t *testing.T) {
	for k := range kinds {
		s := newFakeRun(k)
		faultless(s)
		if s.violations.Any() {
			t.Errorf("%v: violations %v, want none", k, s.violations.All())
		}
	}
}

// If the losses of a stream cannot be counted exactly, its count is not checked.
func TestUncertainAccount(t *testing.T) {
	s := newFakeRun(plainStream)
	for range 4 {
		s.publish("a", 0, false)
	}
	s.open()
	s.dropped(3) // perhaps of messages that were on their way
	s.send("a", 0, false)
	s.finish()
	if s.violations.Any() || s.losses.exact {
		t.Errorf("violations %v, want none; exact = %t, want false", s.violations.All(), s.losses.exact)
	}
}

// The broker's count of lost messages must equal that of its clients, except for messages that they
// could not miss.
func TestAccounts(t *testing.T) {
	s := newFakeRun(session)
	s.begin()
	s.overflow()
	s.publish("a", 0, false)
	s.send("a", 0, false) // its number shows that one is missing
	s.overflow()
	s.publish("a", 0, false) // may have been lost when
	s.closed(false)
	for dropped, fine := range map[uint64]bool{0: false, 1: true, 2: true, 3: false} {
		a := account{}
		a.add(s.checker)
		v := new(history.Violations)
		a.check(dropped, v)
		if v.Any() == fine {
			t.Errorf("%d counted, of %+v: %v", dropped, a, v.All())
		}
	}
}

// Content that was cut off, mixed up or made up does not parse.
func TestMessage(t *testing.T) {
	m := message{topic: "group/7", publisher: 3, seq: 12, plain: 5, offset: 12345, retain: true}
	good := string(m.appendTo(nil, 100))
	if got, err := parseMessage([]byte(good)); err != nil || got != m || len(good) != 100 {
		t.Fatalf("%+v, %v from %q", got, err, good)
	}
	if got, err := parseMessage(m.appendTo(nil, 0)); err != nil || got != m {
		t.Fatalf("%+v, %v", got, err)
	}
	for _, bad := range []string{
		"", "hello", good[:99], good + "m", good[:50] + "x" + good[51:], good[:98] + "\n ",
		strings.Replace(good, "retained", "obtained", 1), strings.Replace(good, " 12 ", " 13 ", 1), strings.Replace(good, " 3 ", " x ", 1),
	} {
		if got, err := parseMessage([]byte(bad)); err == nil {
			t.Errorf("%q is %+v", bad, got)
		}
	}
}

func TestCaughtUp(t *testing.T) {
	s := newFakeRun(session)
	s.begin()
	if !s.caughtUp() {
		t.Error("with everything read, it is behind")
	}
	s.overflow()
	if s.caughtUp() {
		t.Error("with more unread than the broker keeps, it is not behind")
	}
	s.send("a", 0, false)
	s.send("b", 1, false)
	if !s.caughtUp() {
		t.Error("with the newest of each topic read, it is behind")
	}
}
