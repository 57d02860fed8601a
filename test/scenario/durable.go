package scenario

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"pubsub"
	"pubsub/internal/config"
	"pubsub/internal/testkit/wire"
)

func parseVersion(t *testing.T, s string) pubsub.Version {
	t.Helper()
	v, err := pubsub.ParseVersion(s)
	if err != nil || v.String() != s {
		t.Fatalf("version %q: %v", s, err)
	}
	return v
}

// A durable stream begins with the retained messages of its topics, in byte order of the topics.
// Then each retained publish is an event with an id, and each plain one an event without. The id
// names the versions of all topics that were delivered.
func TestDurableStream(t *testing.T) {
	n := start(t)
	vb := n.publish("b", "b1", "retain=true")
	va := n.publish("a", "a1", "retain=true")
	c := n.adminEvents("topic", "b", "topic", "c", "topic", "a", "durable", "true")
	c.Expect("event: message\nid: a:" + va + "\ndata: a1\n")
	c.Expect("event: message\nid: a:" + va + ",b:" + vb + "\ndata: b1\n")
	n.publish("c", "plain")
	c.Expect("event: message\ndata: plain\n")
	vc := n.publish("c", "c1", "retain=true")
	c.Expect("event: message\nid: a:" + va + ",b:" + vb + ",c:" + vc + "\ndata: c1\n")
	va2 := n.publish("a", "\xff", "retain=true")
	c.Expect("event: message-base64\nid: a:" + va2 + ",b:" + vb + ",c:" + vc + "\ndata: /w==\n")

	// Within a generation a later message has a greater sequence number.
	v1, v2 := parseVersion(t, va), parseVersion(t, va2)
	if v1.Generation != v2.Generation || v2.Seq <= v1.Seq {
		t.Errorf("%s, then %s", va, va2)
	}
}

// A stream that is not durable receives plain and retained messages, never with an id. It ignores
// lastEventId and Last-Event-ID.
func TestPlainSubscriberSeesRetainedPublishes(t *testing.T) {
	n := start(t)
	old := n.publish("t", "before", "retain=true")
	n.publish("t", "newer", "retain=true")
	byParam := n.adminEvents("topic", "t", "lastEventId", "t:"+old)
	byHeader := wire.Get(t, dial(t, n.addr), "/events?topic=t&durable=false", "Fastly-Key: "+adminToken, "Last-Event-ID: t:"+old)
	byHeader.ExpectOpen()
	n.publish("t", "kept", "retain=true")
	n.publish("t", "plain")
	for _, c := range []*wire.SSE{byParam, byHeader} {
		c.Expect("event: message\ndata: kept\n")
		c.Expect("event: message\ndata: plain\n")
	}
}

// A durable stream that resumes with a Last-Event-ID receives the retained message if it is newer.
func TestDurableResume(t *testing.T) {
	n := start(t)
	old := n.publish("t", "old", "retain=true")
	now := n.publish("t", "now", "retain=true")
	v := parseVersion(t, now)
	ahead := pubsub.Version{Generation: v.Generation, Seq: v.Seq + 1000}.String()
	other := pubsub.Version{Generation: v.Generation + 1, Seq: v.Seq}.String()
	otherAhead := pubsub.Version{Generation: v.Generation + 1, Seq: v.Seq + 1000}.String()
	for _, tt := range []struct {
		name, param, header string
		current             bool // it is sent the current message
	}{
		{"none", "", "", true},
		{"older", "t:" + old, "", true},
		{"the same", "t:" + now, "", false},
		{"the same, in the header", "", "t:" + now, false},
		{"older, in the header", "", "t:" + old, true},
		{"the parameter wins", "t:" + now, "t:" + old, false},
		{"the parameter wins, though it is older", "t:" + old, "t:" + now, true},
		{"another generation", "t:" + other, "", true},
		{"another generation, greater seq", "t:" + otherAhead, "", true},
		{"ahead of the store", "t:" + ahead, "", true},
		{"malformed", "nonsense", "", true},
		{"malformed version", "t:zz-1", "", true},
		{"no seq", "t:" + now[:16], "", true},
		{"negative seq", "t:" + now[:17] + "-1", "", true},
		{"huge seq", "t:" + now[:17] + "99999999999999999999999", "", true},
		{"commas and colons", ",,:,::,t:,", "", true},
		{"another topic", "u:" + now, "", true},
		{"among other topics and malformed parts", "u:" + old + ",%%%,x:y:z,t:" + now + ",v", "", false},
		{"escaped more than needed", "%74:" + now, "", false},
		{"very long", strings.Repeat("x:"+now+",", 500) + "t:" + now, "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			pairs := []string{"topic", "t", "durable", "true", "auth", n.token("t")}
			if tt.param != "" {
				pairs = append(pairs, "lastEventId", tt.param)
			}
			var header []string
			if tt.header != "" {
				header = []string{"Last-Event-ID: " + tt.header}
			}
			c := wire.Get(t, dial(t, n.addr), "/events"+wire.Query(pairs...), header...)
			c.ExpectOpen()
			if tt.current {
				c.Expect("event: message\nid: t:" + now + "\ndata: now\n")
			}
			n.publish("t", "next")
			c.Expect("event: message\ndata: next\n")
		})
	}
	t.Run("empty lastEventId leaves it to the header", func(t *testing.T) {
		c := wire.Get(t, dial(t, n.addr), "/events?topic=t&durable=1&lastEventId=&auth="+n.token("t"), "Last-Event-ID: t:"+now)
		c.ExpectOpen()
		n.publish("t", "next")
		c.Expect("event: message\ndata: next\n")
	})
	t.Run("an empty header leaves it to another one", func(t *testing.T) {
		c := wire.Get(t, dial(t, n.addr), "/events?topic=t&durable=1&auth="+n.token("t"), "Last-Event-ID:", "Last-Event-ID: t:"+now)
		c.ExpectOpen()
		n.publish("t", "next")
		c.Expect("event: message\ndata: next\n")
	})
}

// The hex digits of a generation may be padded with spaces, as the original implementation writes
// them.
func TestDurableResumeWithSpacePaddedHex(t *testing.T) {
	// Only one generation in 16 begins with a zero, and each store has its own.
	for range 500 {
		n := start(t)
		v := n.publish("t", "now", "retain=true")
		trimmed := strings.TrimLeft(v[:16], "0")
		if len(trimmed) == 16 {
			n.stop()
			continue
		}
		c := n.adminEvents("topic", "t", "durable", "1", "lastEventId", "t:"+fmt.Sprintf("%16s", trimmed)+v[16:])
		n.publish("t", "next")
		c.Expect("event: message\ndata: next\n")
		return
	}
	t.Fatal("no generation begins with a zero")
}

// In an id, the characters %, comma, colon and space of a topic are percent-encoded with upper-case
// hex digits, and the broker decodes them when the client sends the id back.
func TestDurableTopicsThatNeedEscaping(t *testing.T) {
	n := start(t)
	topics := []string{"a:b", "a,b", "a%3Ab", "a b", "ü/€", "😀"}
	escaped := map[string]string{
		"a:b": "a%3Ab", "a,b": "a%2Cb", "a%3Ab": "a%253Ab", "a b": "a%20b", "ü/€": "%C3%BC/%E2%82%AC", "😀": "%F0%9F%98%80",
	}
	sorted := []string{"a b", "a%3Ab", "a,b", "a:b", "ü/€", "😀"}
	pairs := []string{"durable", "true"}
	for _, topic := range topics {
		pairs = append(pairs, "topic", topic)
	}
	c := n.adminEvents(pairs...)
	versions := make(map[string]string)
	id := ""
	for _, topic := range topics {
		versions[topic] = n.publish(topic, "to "+topic, "retain=true")
		parts := []string{}
		for _, s := range sorted {
			if v := versions[s]; v != "" {
				name := s
				if e, ok := escaped[s]; ok {
					name = e
				}
				parts = append(parts, name+":"+v)
			}
		}
		id = strings.Join(parts, ",")
		c.Expect("event: message\nid: " + id + "\ndata: to " + topic + "\n")
	}
	// As it is, and with non-ASCII characters unescaped, which the broker reads as well.
	raw := strings.NewReplacer("%C3%BC", "ü", "%E2%82%AC", "€", "%F0%9F%98%80", "😀").Replace(id)
	older := n.adminEvents(append(pairs, "lastEventId", raw)...)
	again := n.adminEvents(append(pairs, "lastEventId", id)...)
	n.publish(topics[0], "next")
	older.Expect("event: message\ndata: next\n")
	again.Expect("event: message\ndata: next\n")
	last := n.publish(topics[0], "kept", "retain=true")
	again.Expect("event: message\nid: " + strings.Replace(id, versions[topics[0]], last, 1) + "\ndata: kept\n")
}

// The id names every topic of which a version was delivered on this stream or given by
// Last-Event-ID. A version that counts as none is not named, nor is a topic without a subscription.
func TestIDIncludesGivenVersions(t *testing.T) {
	n := start(t)
	va := n.publish("a", "a", "retain=true")
	vb := n.publish("b", "b", "retain=true")
	v := parseVersion(t, vb)
	ahead := pubsub.Version{Generation: v.Generation, Seq: v.Seq + 1000}.String()
	other := pubsub.Version{Generation: v.Generation ^ 1, Seq: 1}.String()
	c := n.adminEvents("topic", "a", "topic", "b", "topic", "c", "topic", "d", "durable", "1",
		"lastEventId", "a:"+va+",b:"+vb+",c:"+ahead+",d:"+other+",e:"+va)
	vb2 := n.publish("b", "b2", "retain=true")
	c.Expect("event: message\nid: a:" + va + ",b:" + vb2 + "\ndata: b2\n")
	vc := n.publish("c", "c", "retain=true")
	c.Expect("event: message\nid: a:" + va + ",b:" + vb2 + ",c:" + vc + "\ndata: c\n")
}

// A retained message of zero bytes clears the topic's retained message and is delivered live as an
// empty message. The clear itself is the newest message for 24 h: a durable SSE subscriber that
// resumes with an older version gets it as an empty message, and one without a version gets
// nothing. A retained message with ttl=0 does the same.
func TestClears(t *testing.T) {
	for _, tt := range []struct {
		name string
		// clear returns the content that live subscribers receive.
		clear func(n *node) string
	}{
		{"zero bytes over HTTP", func(n *node) string { n.publish("t", "", "retain=true"); return "" }},
		{"zero bytes over MQTT", func(n *node) string { n.adminClient().Publish("t", "", true); return "" }},
		{"ttl=0", func(n *node) string { n.publish("t", "last words", "retain=true", "ttl=0"); return "last words" }},
		{"DELETE", func(n *node) string {
			if resp, body := n.do("DELETE", n.url("/admin/topics/t/retained"), asAdmin(), ""); resp.StatusCode != 204 {
				n.t.Fatalf("clearing: %s %q", resp.Status, body)
			}
			return ""
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := start(t)
			old := n.publish("t", "old", "retain=true")
			plain := n.adminEvents("topic", "t")
			live := n.adminEvents("topic", "t", "durable", "1")
			live.Expect("event: message\nid: t:" + old + "\ndata: old\n")
			mqtt := n.adminClient("t")
			mqtt.Expect("t", "old")

			data := tt.clear(n)
			plain.Expect("event: message\ndata: " + data + "\n")
			e := live.Next()
			cleared := strings.TrimPrefix(e.ID, "t:")
			if a, b := parseVersion(t, old), parseVersion(t, cleared); b.Seq <= a.Seq || a.Generation != b.Generation {
				t.Errorf("cleared as %s after %s", cleared, old)
			}
			if e.Raw != "event: message\nid: t:"+cleared+"\ndata: "+data+"\n" {
				t.Errorf("live: %q", e.Raw)
			}
			mqtt.Expect("t", data)

			resuming := n.adminEvents("topic", "t", "durable", "1", "lastEventId", "t:"+old)
			resuming.Expect("event: message\nid: t:" + cleared + "\ndata: \n")
			same := n.adminEvents("topic", "t", "durable", "1", "lastEventId", "t:"+cleared)
			fresh := n.adminEvents("topic", "t", "durable", "1")
			second := n.adminClient("t")
			n.publish("t", "next")
			for _, c := range []*wire.SSE{resuming, same, fresh} {
				c.Expect("event: message\ndata: next\n")
			}
			second.Expect("t", "next")
		})
	}
}

// A retained message that has expired is not sent to new subscribers.
func TestTTL(t *testing.T) {
	n := start(t)
	before := n.publish("t", "older", "retain=true")
	v := n.publish("t", "short", "retain=true", "ttl=2")
	n.publish("long", "long", "retain=true", "ttl=4294967295")
	c := n.adminEvents("topic", "t", "durable", "1")
	if e := c.Next(); e.Raw != "event: message\nid: t:"+v+"\ndata: short\n" {
		t.Errorf("before it expires: %q", e.Raw)
	}
	time.Sleep(2100 * time.Millisecond) // the node counts the expiry in real time
	fresh := n.adminEvents("topic", "t", "topic", "long", "durable", "1")
	if e := fresh.Next(); e.Data != "long" {
		t.Errorf("after it has expired: %q", e.Raw)
	}
	resuming := n.adminEvents("topic", "t", "durable", "1", "lastEventId", "t:"+before)
	m := n.adminClient("t")
	n.publish("t", "next")
	fresh.Expect("event: message\ndata: next\n")
	resuming.Expect("event: message\ndata: next\n")
	m.Expect("t", "next")
}

// A generation names one life of the store, restarts included. After a restart a durable subscriber
// continues from its version. With another store it gets the current message in any case.
func TestRestart(t *testing.T) {
	dir := t.TempDir()
	onDisk := func(c *config.Config) { c.InMemory, c.DataDir = false, config.Dir(dir) }
	first := start(t, onDisk)
	old := first.publish("t", "old", "retain=true")
	now := first.publish("t", "now", "retain=true")
	gone := first.publish("gone", "x", "retain=true")
	first.publish("gone", "", "retain=true")
	first.stop()

	second := start(t, onDisk)
	c := second.adminEvents("topic", "t", "durable", "1", "lastEventId", "t:"+now)
	later := second.publish("t", "later", "retain=true")
	c.Expect("event: message\nid: t:" + later + "\ndata: later\n")
	if a, b := parseVersion(t, now), parseVersion(t, later); a.Generation != b.Generation || b.Seq <= a.Seq {
		t.Errorf("%s, but %s after the restart", now, later)
	}
	c = second.adminEvents("topic", "t", "topic", "gone", "durable", "1", "lastEventId", "t:"+old+",gone:"+gone)
	if e := c.Next(); e.Data != "" || !strings.HasPrefix(e.ID, "gone:") {
		t.Errorf("the clear: %q", e.Raw)
	}
	if e := c.Next(); e.Data != "later" {
		t.Errorf("after the restart: %q", e.Raw)
	}
	// The store also has the key.
	second.events("topic", "t", "auth", first.token("t"))
	second.stop()

	third := start(t)
	v := third.publish("t", "elsewhere", "retain=true")
	c = third.adminEvents("topic", "t", "durable", "1", "lastEventId", "t:"+later)
	c.Expect("event: message\nid: t:" + v + "\ndata: elsewhere\n")
}

// A durable event is never older than one that the stream has delivered of the same topic, while
// many clients publish at once.
func TestDurableVersionsNeverStepBack(t *testing.T) {
	n := start(t)
	c := n.adminEvents("topic", "t", "durable", "1")
	const publishers, each = 8, 40
	done := make(chan pubsub.Version, publishers)
	for i := range publishers {
		go func() {
			var last pubsub.Version
			defer func() { done <- last }()
			for k := range each {
				v, err := pubsub.ParseVersion(n.publish("t", fmt.Sprint(i, k), "retain=true"))
				if err != nil || last.Seq >= v.Seq {
					t.Errorf("version %v after %v: %v", v, last, err)
				}
				last = v
			}
		}()
	}
	var newest pubsub.Version
	for range publishers {
		if v := <-done; v.Newer(newest) {
			newest = v
		}
	}
	for last := (pubsub.Version{}); last != newest; {
		v := parseVersion(t, strings.TrimPrefix(c.Next().ID, "t:"))
		if !v.Newer(last) {
			t.Fatalf("%v after %v", v, last)
		}
		last = v
	}
}
