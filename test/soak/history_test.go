//go:build linux

package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// tale is a history that a test tells, of a subscriber to a and b, both of which
// publishers 0 and 1 publish to.
type tale struct {
	*history
	seq, plain map[string]uint64
	version    uint64
	versions   map[string]uint64 // of topics that the subscriber has
}

func newTale(k kind) *tale {
	h := newHistory("the subscriber", k, []string{"a", "b"}, newTruth([]string{"a", "b", "c"}, 2), newFaults())
	return &tale{history: h, seq: make(map[string]uint64), plain: make(map[string]uint64), versions: make(map[string]uint64)}
}

// publish publishes the next message of a publisher.
func (t *tale) publish(topic string, publisher int, retain bool) message {
	from := fmt.Sprint(topic, publisher)
	t.seq[from]++
	if !retain {
		t.plain[from]++
		t.truth.topics[topic].begun[publisher].Store(t.plain[from])
	}
	offset := t.truth.topics[topic].offset.Add(cost(100)) - cost(100)
	return message{topic: topic, publisher: publisher, seq: t.seq[from], plain: t.plain[from], offset: offset, retain: retain}
}

// overflow publishes, with some other messages, more than may be unread.
func (t *tale) overflow() {
	for _, topic := range []string{"a", "b"} {
		t.truth.topics[topic].offset.Add(subscriberBuffer)
	}
}

// id makes the id of the next retained message to topic.
func (t *tale) id(topic string) string {
	t.version++
	t.versions[topic] = t.version
	return t.current()
}

func (t *tale) current() string {
	var parts []string
	for topic, v := range t.versions {
		parts = append(parts, fmt.Sprintf("%s:%016x-%d", topic, 7, v))
	}
	slices.Sort(parts)
	return strings.Join(parts, ",")
}

// get is publish, and that the subscriber gets it.
func (t *tale) get(topic string, publisher int, retain bool) {
	t.gets(t.publish(topic, publisher, retain))
}

func (t *tale) gets(m message) {
	id := ""
	if m.retain && t.kind == durableStream {
		id = t.id(m.topic)
	}
	t.message(m, id)
}

// begin opens a connection and primes it.
func (t *tale) begin() {
	t.open()
	for _, topic := range []string{"a", "b"} {
		for publisher := range 2 {
			t.get(topic, publisher, false)
		}
	}
}

// finish has each publisher publish a last message, and then what is retained in
// the end, and ends the tale; some are left out.
func (t *tale) finish(without ...string) {
	for _, topic := range []string{"a", "b"} {
		for publisher := range 2 {
			m := t.publish(topic, publisher, false)
			t.truth.topics[topic].ended(publisher, m.seq)
			if !slices.Contains(without, fmt.Sprint("last ", topic, publisher)) {
				t.gets(m)
			}
		}
		m := t.publish(topic, 1, true)
		if !slices.Contains(without, "retained "+topic) {
			t.gets(m)
		} else {
			t.version++
		}
		t.truth.topics[topic].end(m.name(), t.last())
	}
	t.end()
}

func (t *tale) last() version { return version{fmt.Sprintf("%016x", 7), t.version} }

// faultless is a tale in which everything happens that may.
func faultless(t *tale) {
	t.begin()
	t.get("a", 0, true)
	t.get("b", 1, true)
	t.get("a", 1, true)
	if !t.primed() {
		t.fault(faultBroker, "not primed")
	}
	t.overflow()
	t.publish("a", 0, false) // lost
	t.publish("a", 1, false) // lost
	t.publish("a", 0, true)  // replaced
	if t.kind != session {
		t.dropped(2)
	}
	t.get("a", 1, true)
	t.get("a", 0, false)
	t.get("a", 1, false)
	t.closed(false)
	for range 3 {
		t.publish("a", 0, false) // while it is away
	}
	old := t.publish("b", 0, true) // likewise, and given again
	under := t.publish("b", 0, false)
	t.open()
	t.gets(old)
	t.gets(under) // was on its way as the subscription began
	t.get("b", 0, false)
	t.get("b", 1, false)
	switch t.kind {
	case session:
		t.clear("a", "")
	case durableStream:
		t.clear("", t.id("a"))
	case plainStream:
		t.clear("", "")
	}
	t.get("a", 0, false)
	t.get("a", 1, false)
	t.finish()
}

func TestFaultless(t *testing.T) {
	for k := range kinds {
		s := newTale(k)
		faultless(s)
		if s.faults.any() {
			t.Errorf("%v: %v", k, s.faults.texts)
		}
	}
}

// A stream whose losses cannot be counted exactly is not accused of a wrong count.
func TestUncertainAccount(t *testing.T) {
	s := newTale(plainStream)
	for range 4 {
		s.publish("a", 0, false)
	}
	s.open()
	s.dropped(3) // of those that were on their way, perhaps
	s.get("a", 0, false)
	s.finish()
	if s.faults.any() || s.exact {
		t.Error(s.faults.texts, s.exact)
	}
}

// Each fault that is planted is found, and found to be what it is.
func TestPlantedFaults(t *testing.T) {
	all := []kind{plainStream, durableStream, session}
	streams := []kind{plainStream, durableStream}
	durable := []kind{durableStream}
	for _, c := range []struct {
		name  string
		kinds []kind
		want  faultKind
		plant func(*tale)
	}{
		{"a topic of others", all, faultContent, func(s *tale) {
			s.begin()
			s.get("c", 0, false)
			s.finish()
		}},
		{"a clear of a topic of others", []kind{session}, faultContent, func(s *tale) {
			s.begin()
			s.clear("c", "")
			s.finish()
		}},
		{"a step back", all, faultOrder, func(s *tale) {
			s.begin()
			first, second := s.publish("a", 0, true), s.publish("a", 0, true)
			s.gets(second)
			s.gets(first)
			s.finish()
		}},
		{"a plain message before the retained one that it follows", all, faultOrder, func(s *tale) {
			s.begin()
			first, second := s.publish("a", 0, true), s.publish("a", 0, false)
			s.gets(second)
			s.gets(first)
			s.finish()
		}},
		{"a message twice", all, faultOrder, func(s *tale) {
			s.begin()
			m := s.publish("a", 0, false)
			s.gets(m)
			s.gets(m)
			s.finish()
		}},
		{"a message again after resuming", durable, faultOrder, func(s *tale) {
			s.begin()
			m := s.publish("a", 0, true)
			s.gets(m)
			s.closed(false)
			s.open()
			s.gets(m)
			s.finish()
		}},
		{"no id", durable, faultVersion, func(s *tale) {
			s.begin()
			s.message(s.publish("a", 0, true), "")
			s.finish()
		}},
		{"an id of a plain message", durable, faultVersion, func(s *tale) {
			s.begin()
			s.get("a", 0, true)
			s.message(s.publish("a", 0, false), s.current())
			s.finish()
		}},
		{"an id that cannot be read", durable, faultVersion, func(s *tale) {
			s.begin()
			s.message(s.publish("a", 0, true), "a=1")
			s.finish()
		}},
		{"a version that steps back", durable, faultVersion, func(s *tale) {
			s.begin()
			s.version = 10
			s.get("a", 0, true)
			s.version = 5
			s.get("a", 0, true)
			s.version = 10
			s.finish()
		}},
		{"a version that stays", durable, faultVersion, func(s *tale) {
			s.begin()
			s.get("a", 0, true)
			s.message(s.publish("a", 0, true), s.current())
			s.finish()
		}},
		{"a version that steps back when resuming", durable, faultVersion, func(s *tale) {
			s.begin()
			s.version = 10
			s.get("a", 0, true)
			s.closed(false)
			s.open()
			s.version = 8
			s.get("a", 1, true)
			s.version = 10
			s.finish()
		}},
		{"a clear that is older", durable, faultVersion, func(s *tale) {
			s.begin()
			s.get("a", 0, true)
			s.clear("", s.current())
			s.finish()
		}},
		{"another generation", durable, faultVersion, func(s *tale) {
			s.begin()
			s.get("a", 0, true)
			s.message(s.publish("a", 0, true), strings.Replace(s.id("a"), "7", "8", 1))
			s.message(s.publish("a", 0, true), s.id("a"))
			s.finish()
		}},
		{"an id that forgets a topic", durable, faultVersion, func(s *tale) {
			s.begin()
			s.get("a", 0, true)
			s.get("b", 0, true)
			id, _, _ := strings.Cut(s.id("a"), ",")
			s.message(s.publish("a", 0, true), id)
			s.finish()
		}},
		{"an id that changes another topic", durable, faultVersion, func(s *tale) {
			s.begin()
			s.get("a", 0, true)
			s.get("b", 0, true)
			s.id("a")
			s.message(s.publish("b", 0, true), s.id("b"))
			s.finish()
		}},
		{"an id that does not name its message", durable, faultVersion, func(s *tale) {
			s.begin()
			s.get("a", 0, true)
			s.message(s.publish("b", 0, true), s.current())
			s.finish()
		}},
		{"an id that names a topic of others", durable, faultVersion, func(s *tale) {
			s.begin()
			s.message(s.publish("a", 0, true), s.id("a")+",c:"+fmt.Sprintf("%016x-1", 7))
			s.finish()
		}},
		{"a version of two messages", durable, faultVersion, func(s *tale) {
			s.begin()
			s.truth.topics["a"].versionOf(version{fmt.Sprintf("%016x", 7), 1}, "what another subscriber has got")
			s.get("a", 0, true)
			s.finish()
		}},
		{"a loss in silence", streams, faultLoss, func(s *tale) {
			s.begin()
			s.overflow()
			s.publish("a", 0, false)
			s.get("a", 0, false)
			s.dropped(1) // too late
			s.finish()
		}},
		{"a loss without reason", all, faultLoss, func(s *tale) {
			s.begin()
			s.publish("a", 0, false)
			if s.kind != session {
				s.dropped(1)
			}
			s.get("a", 0, false)
			s.finish()
		}},
		{"a loss that a retained message shows", all, faultLoss, func(s *tale) {
			s.begin()
			s.publish("a", 0, false)
			if s.kind != session {
				s.dropped(1)
			}
			s.get("a", 0, true)
			s.finish()
		}},
		{"a loss at the beginning", []kind{session}, faultLoss, func(s *tale) {
			s.open()
			s.publish("a", 0, false)
			s.get("a", 0, false)
			s.finish()
		}},
		{"a loss at the beginning, in silence", streams, faultLoss, func(s *tale) {
			s.open()
			s.publish("a", 0, false)
			s.get("a", 0, false)
			s.dropped(1)
			s.finish()
		}},
		{"fewer announced than lost", streams, faultLoss, func(s *tale) {
			s.begin()
			s.overflow()
			s.publish("a", 0, false)
			s.publish("b", 0, false)
			s.dropped(1)
			s.get("a", 0, false)
			s.get("b", 0, false)
			s.dropped(1)
			s.finish()
		}},
		{"more announced than lost", streams, faultAccount, func(s *tale) {
			s.begin()
			s.overflow()
			s.publish("a", 0, false)
			s.dropped(2)
			s.get("a", 0, false)
			s.finish()
		}},
		{"a loss of none", streams, faultAccount, func(s *tale) {
			s.begin()
			s.dropped(0)
			s.finish()
		}},
		{"the last message is missing", all, faultConvergence, func(s *tale) {
			s.begin()
			s.finish("last b1", "retained b") // which would show the loss
		}},
		{"the newest retained message is missing", all, faultConvergence, func(s *tale) {
			s.begin()
			s.finish("retained a")
		}},
		{"the newest has another version", durable, faultConvergence, func(s *tale) {
			s.begin()
			s.finish()
			s.truth.topics["a"].end(s.topics["a"].retained, version{fmt.Sprintf("%016x", 7), 99})
			s.end()
		}},
		{"the last clear is missing", []kind{durableStream, session}, faultConvergence, func(s *tale) {
			s.begin()
			s.finish()
			s.truth.topics["a"].end(cleared, s.last())
			s.end()
		}},
	} {
		for _, k := range c.kinds {
			s := newTale(k)
			c.plant(s)
			if len(s.faults.counts) != 1 || s.faults.counts[c.want] == 0 {
				t.Errorf("%s, %v: want a fault of the kind %s, found %v", c.name, k, c.want, s.faults.texts)
			}
			if c.want == faultConvergence && s.converged() {
				t.Errorf("%s, %v: has converged", c.name, k)
			}
		}
	}
}

// The broker's count of lost messages must be what its clients know of, but for
// what they could not see.
func TestAccounts(t *testing.T) {
	s := newTale(session)
	s.begin()
	s.overflow()
	s.publish("a", 0, false)
	s.get("a", 0, false) // shows that one is missing
	s.overflow()
	s.publish("a", 0, false) // may have been lost when
	s.closed(false)
	for dropped, fine := range map[uint64]bool{0: false, 1: true, 2: true, 3: false} {
		a := account{}
		a.add(s.history)
		f := newFaults()
		a.check(dropped, f)
		if f.any() == fine {
			t.Errorf("%d counted, of %+v: %v", dropped, a, f.texts)
		}
	}
}

// What is cut off, mixed up or made up is no message.
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

func TestParseID(t *testing.T) {
	got, err := parseID("a:0123456789abcdef-4,b/1:0123456789abcdef-70")
	if err != nil || len(got) != 2 || got["b/1"] != (version{"0123456789abcdef", 70}) || got["a"].String() != "0123456789abcdef-4" {
		t.Fatal(got, err)
	}
	for _, bad := range []string{"", "a", "a:1", "a:0123456789abcdef-x", "a:0123-4", "a:0123456789abcdef-4,", "a:0123456789abcdef-4,a:0123456789abcdef-5"} {
		if got, err := parseID(bad); err == nil {
			t.Errorf("%q is %v", bad, got)
		}
	}
}

func TestCaughtUp(t *testing.T) {
	s := newTale(session)
	s.begin()
	if !s.caughtUp() {
		t.Error("with everything read, it is behind")
	}
	s.overflow()
	if s.caughtUp() {
		t.Error("with more unread than the broker keeps, it is not behind")
	}
	s.get("a", 0, false)
	s.get("b", 1, false)
	if !s.caughtUp() {
		t.Error("with the newest of each topic read, it is behind")
	}
}
