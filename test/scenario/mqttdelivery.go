package scenario

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"pubsub/internal/config"
	"pubsub/internal/mqtt"
	"pubsub/internal/testkit/wire"
)

// A SUBACK has one reason for each filter of the packet, in order. The first fault of a filter
// counts.
func TestSubackAnswersEveryFilter(t *testing.T) {
	n := start(t)
	m := n.connect(n.token("t", "$SYS/x", "a+b"), mqtt.Connect{})
	n.publish("t", "kept", "retain=true")
	filters := []struct {
		filter string
		qos    byte
		want   mqtt.ReasonCode
	}{
		{"t", 0, 0x00},
		{"", 0, 0x8F},
		{"a\x01", 0, 0x8F},
		{"\ufeff", 0, 0x8F},
		{strings.Repeat("x", 1025), 0, 0x8F},
		{"a+b", 0, 0x8F},
		{"#/a", 0, 0x8F},
		{"$share/g/t", 0, 0x9E},
		{"$share/g/+", 0, 0x9E},
		{"$share/", 0, 0x9E},
		{"$share/g/\x7f", 0, 0x8F},
		{"+", 0, 0xA2},
		{"#", 0, 0xA2},
		{"a/+/b/#", 0, 0xA2},
		{"secret", 0, 0x87},
		{"T", 0, 0x87},
		{"$SYS/x", 1, 0x00},
		{"t", 2, 0x00},
		{"$SYS/y", 0, 0x87},
	}
	var fs []mqtt.Filter
	var want []mqtt.ReasonCode
	for _, f := range filters {
		fs = append(fs, mqtt.Filter{Topic: f.filter, QoS: f.qos})
		want = append(want, f.want)
	}
	if got := m.SubscribeWith(0, fs...); !slices.Equal(got, want) {
		t.Fatalf("got  %v\nwant %v", got, want)
	}
	m.Expect("t", "kept") // after the SUBACK, and once
	m.Ping()
	n.publish("t", "live")
	m.Expect("t", "live")
}

// An UNSUBACK has the reason 0x00 or 0x11 for each filter, and no messages follow.
func TestUnsubscribe(t *testing.T) {
	n := start(t)
	m := n.adminClient("a", "b")
	m.Send(&mqtt.Unsubscribe{PacketID: 7, Filters: []string{"a", "never", "a", "", "#", "$share/g/b"}})
	ack, ok := m.Next().(*mqtt.Unsuback)
	if want := []mqtt.ReasonCode{0, 0x11, 0x11, 0x11, 0x11, 0x11}; !ok || ack.PacketID != 7 || !slices.Equal(ack.Reasons, want) {
		t.Fatalf("UNSUBACK is %+v", ack)
	}
	n.publish("a", "x")
	n.publish("b", "y")
	m.Expect("b", "y")
	m.Subscribe("a")
	n.publish("a", "z")
	m.Expect("a", "z")
}

// With No Local a client does not receive its own messages. It still receives those of other
// clients, and those of its subscriptions without the option.
func TestNoLocal(t *testing.T) {
	n := start(t)
	m := n.connect(adminToken, mqtt.Connect{ClientID: "me"})
	m.SubscribeWith(0, mqtt.Filter{Topic: "nl", NoLocal: true}, mqtt.Filter{Topic: "all"})
	other := n.adminClient()
	for _, retain := range []bool{false, true} {
		m.Publish("nl", "own", retain)
		m.Publish("all", "own", retain)
		m.Expect("all", "own")
		other.Publish("nl", "other's", retain)
		m.Expect("nl", "other's")
		n.publish("nl", "HTTP", fmt.Sprintf("retain=%v", retain))
		m.Expect("nl", "HTTP")
	}
	// The same client identifier with another token's sub is another client.
	namesake := n.connect(n.token("nl"), mqtt.Connect{ClientID: "me"})
	namesake.Publish("nl", "namesake", false)
	m.Expect("nl", "namesake")
	// Nor is its own retained message sent when it subscribes.
	m.Publish("nl2", "own", true)
	m.SubscribeWith(0, mqtt.Filter{Topic: "nl2", NoLocal: true})
	m.Ping()
	// Without the option again.
	m.SubscribeWith(0, mqtt.Filter{Topic: "nl", RetainHandling: 2})
	m.Publish("nl", "own again", false)
	m.Expect("nl", "own again")
}

// A live retained publish has RETAIN set as Retain As Published says. A message that was retained
// before the subscription always has it.
func TestRetainAsPublished(t *testing.T) {
	n := start(t)
	n.publish("rap", "first", "retain=1")
	n.publish("t", "first", "retain=1")
	m := n.adminClient()
	m.SubscribeWith(0, mqtt.Filter{Topic: "rap", RetainAsPublished: true}, mqtt.Filter{Topic: "t"})
	for range 2 {
		if p := m.NextPublish(); !p.Retain || string(p.Payload) != "first" {
			t.Errorf("retained before: %+v", p)
		}
	}
	p := n.adminClient()
	for _, retain := range []bool{true, false} {
		p.Publish("rap", "live", retain)
		p.Publish("t", "live", retain)
		for range 2 {
			if got := m.NextPublish(); string(got.Payload) != "live" || got.Retain != (retain && got.Topic == "rap") {
				t.Errorf("published with retain %v: %+v", retain, got)
			}
		}
	}
}

// Retain Handling 0, 1 and 2 decide whether a new or an existing subscription gets the retained
// message.
func TestRetainHandling(t *testing.T) {
	n := start(t)
	n.publish("t", "kept", "retain=1")
	for handling, want := range [][]bool{{true, true, true}, {true, false, true}, {false, false, false}} {
		m := n.adminClient()
		f := mqtt.Filter{Topic: "t", RetainHandling: byte(handling)}
		for i, what := range []string{"new", "exists", "new again"} {
			if what == "new again" {
				m.Send(&mqtt.Unsubscribe{PacketID: 9, Filters: []string{"t"}})
				m.Next()
			}
			if r := m.SubscribeWith(0, f); r[0] != 0 {
				t.Fatalf("SUBACK %v", r)
			}
			if want[i] {
				if p := m.Expect("t", "kept"); !p.Retain {
					t.Errorf("without RETAIN: %+v", p)
				}
			}
			m.Ping()
		}
		// Live messages are always delivered.
		n.publish("t", "kept", "retain=1")
		m.Expect("t", "kept")
	}
}

// A message has the Subscription Identifier of its subscription, whether it is retained or live. A
// later SUBSCRIBE replaces the identifier, or removes it.
func TestSubscriptionIdentifier(t *testing.T) {
	n := start(t)
	n.publish("t", "kept", "retain=1")
	m := n.adminClient()
	for _, id := range []uint32{1, 268_435_455, 0, 300} {
		var want []uint32
		if id > 0 {
			want = []uint32{id}
		}
		m.SubscribeWith(id, mqtt.Filter{Topic: "t"})
		if p := m.Expect("t", "kept"); !slices.Equal(p.SubscriptionIDs, want) || !p.Retain {
			t.Errorf("retained, with %d: %+v", id, p)
		}
		n.publish("t", "live")
		if p := m.Expect("t", "live"); !slices.Equal(p.SubscriptionIDs, want) || p.Retain {
			t.Errorf("live, with %d: %+v", id, p)
		}
	}
	// Two topics have an identifier each.
	m.SubscribeWith(5, mqtt.Filter{Topic: "u"})
	n.publish("u", "x")
	if p := m.Expect("u", "x"); !slices.Equal(p.SubscriptionIDs, []uint32{5}) {
		t.Errorf("message to u: %+v", p)
	}
	n.publish("t", "x")
	if p := m.Expect("t", "x"); !slices.Equal(p.SubscriptionIDs, []uint32{300}) {
		t.Errorf("message to t: %+v", p)
	}
}

// properties has one of each kind that travels with a message, and several user properties in a
// certain order, one of them twice.
var properties = []byte("\x26\x00\x01b\x00\x01z" + "\x01\x01" + "\x03\x00\x0atext/plain" + "\x26\x00\x01a\x00\x00" +
	"\x08\x00\x05reply" + "\x09\x00\x03\x00\xff\x01" + "\x26\x00\x01b\x00\x01z")

// Payload format, content type, response topic, correlation data and user properties reach MQTT
// subscribers unaltered, with the retained message too, and after a restart.
func TestPropertiesTravelUnaltered(t *testing.T) {
	dir := t.TempDir()
	onDisk := func(c *config.Config) { c.InMemory, c.DataDir = false, config.Dir(dir) }
	n := start(t, onDisk)
	m := n.adminClient("t", "plain")
	m.SubscribeWith(9, mqtt.Filter{Topic: "with id"})
	p := n.adminClient()
	check := func(m *wire.MQTT, topic string) {
		t.Helper()
		if got := m.Expect(topic, "x"); !bytes.Equal(got.Properties, properties) {
			t.Errorf("properties of %q: % x", topic, got.Properties)
		}
	}
	for _, topic := range []string{"t", "plain", "with id"} {
		p.Send(&mqtt.Publish{Topic: topic, Payload: []byte("x"), Retain: topic == "t", Properties: properties})
		check(m, topic)
	}
	check(n.adminClient("t"), "t")
	n.stop()
	n = start(t, onDisk)
	check(n.adminClient("t"), "t")
	// A later message has no properties.
	n.publish("t", "x", "retain=1")
	if got := n.adminClient("t").Expect("t", "x"); len(got.Properties) > 0 {
		t.Errorf("properties % x, want none", got.Properties)
	}
}

// The message expiry is reduced by the time that the message has waited, and an expired message is
// not delivered. MQTT subscribers see ttl as the expiry of a plain message, and ttl=0 as 0.
func TestMessageExpiry(t *testing.T) {
	n := start(t)
	m := n.adminClient("t")
	id := n.adminClient()
	id.SubscribeWith(3, mqtt.Filter{Topic: "t"})
	p := n.adminClient()
	for _, tt := range []struct {
		publish func()
		want    uint32
	}{
		{func() { n.publish("t", "x", "ttl=100") }, 100},
		{func() { n.publish("t", "x", "ttl=0") }, 0},
		{func() { n.publish("t", "x", "ttl=0", "retain=true") }, 0},
		{func() { n.publish("t", "x", "ttl=4294967295", "retain=true") }, 4294967295},
		{func() { p.Send(&mqtt.Publish{Topic: "t", Payload: []byte("x"), HasExpiry: true, Expiry: 5}) }, 5},
		{func() {
			p.Send(&mqtt.Publish{Topic: "t", Payload: []byte("x"), HasExpiry: true, Expiry: 5, Retain: true})
		}, 5},
	} {
		tt.publish()
		for _, m := range []*wire.MQTT{m, id} {
			got := m.Expect("t", "x")
			if !got.HasExpiry || got.Expiry > tt.want || tt.want-got.Expiry > 1 {
				t.Errorf("expiry %v %d, not %d", got.HasExpiry, got.Expiry, tt.want)
			}
		}
	}
	p.Send(&mqtt.Publish{Topic: "short", Payload: []byte("x"), HasExpiry: true, Expiry: 1, Retain: true})
	p.Ping()
	time.Sleep(1100 * time.Millisecond) // the node counts the message's expiry in real time
	late := n.adminClient("t", "short")
	if got := late.Expect("t", "x"); !got.HasExpiry || got.Expiry > 4 {
		t.Errorf("after a second: %v %d", got.HasExpiry, got.Expiry)
	}
	late.Ping()
	n.publish("t", "x")
	if got := late.Expect("t", "x"); got.HasExpiry {
		t.Errorf("a message without ttl has an expiry: %+v", got)
	}
}

// A publish to a $ topic, or without permission, is dropped, counted and logged at debug level. The
// connection stays.
func TestPublishWithoutPermission(t *testing.T) {
	n := start(t)
	watch := n.adminClient("$SYS/x", "secret", "t")
	m := n.connect(n.token("t", "$SYS/x"), mqtt.Connect{})
	m.Publish("$SYS/x", "x", false)
	m.Publish("secret", "x", false)
	m.Publish("secret", "x", true)
	m.Publish("t", "allowed", false)
	watch.Expect("t", "allowed")
	m.Ping()
	admin := n.adminClient()
	admin.Publish("$SYS/x", "x", true)
	admin.Ping()
	watch.Ping()
	if got := n.metric("pubsub_publishes_dropped_total{"); got != 4 {
		t.Errorf("%v dropped", got)
	}
	for _, reason := range []string{"reserved-topic", "not-authorized"} {
		if !strings.Contains(n.log.String(), `level=DEBUG msg="publish dropped" reason=`+reason) {
			t.Errorf("not logged: %s", reason)
		}
	}
}

// A client gets no packet over its Maximum Packet Size.
func TestClientMaximumPacketSize(t *testing.T) {
	n := start(t)
	n.publish("t", strings.Repeat("x", 200), "retain=1")
	m := n.connect(adminToken, mqtt.Connect{MaximumPacketSize: 100})
	m.Subscribe("t")
	// A PUBLISH has 2 bytes of header, 3 of topic and 1 of properties.
	fits, tooLong := strings.Repeat("y", 94), strings.Repeat("y", 95)
	for _, data := range []string{tooLong, fits, tooLong} {
		n.publish("t", data)
		n.publish("t", data, "ttl=9") // encoded for this client alone
	}
	m.Expect("t", fits)
	n.publish("t", strings.Repeat("z", 89), "ttl=9")
	m.Expect("t", strings.Repeat("z", 89))
	n.publish("t", strings.Repeat("z", 90), "ttl=9")
	n.publish("t", "end")
	m.Expect("t", "end")
	if got := n.metric(`pubsub_messages_dropped_total{reason="packet-too-large"}`); got != 7 {
		t.Errorf("%v deliveries are counted as too large, not 7", got)
	}
}

// After SUBACK all retained messages are delivered: 3,000 of the largest size, to a client that
// does not read for a while. They do not wait in memory.
func TestSubscribeToManyLargeRetained(t *testing.T) {
	const topics = 3000
	dir, err := os.MkdirTemp("", "scenario")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	n := start(t, func(c *config.Config) { c.InMemory, c.DataDir, c.WriteTimeout = false, config.Dir(dir), patience })
	p := n.adminClient()
	filler := strings.Repeat("x", 32000)
	sub := mqtt.Subscribe{PacketID: 1}
	for i := range topics {
		name := fmt.Sprint(i)
		p.Publish(name, name+" "+filler, true)
		sub.Filters = append(sub.Filters, mqtt.Filter{Topic: name})
	}
	const accepted = `pubsub_messages_published_total{retain="true"`
	if !within(func() bool { return n.metric(accepted) == topics }) {
		t.Fatalf("%v messages retained", n.metric(accepted))
	}
	// The first time fills the store's block cache, which then belongs to the heap before the
	// measurement.
	read := func(look func()) {
		m := n.adminClient()
		m.Send(&sub)
		ack, ok := m.Next().(*mqtt.Suback)
		if !ok || len(ack.Reasons) != topics {
			t.Fatalf("SUBACK is %+v", ack)
		}
		for i, r := range ack.Reasons {
			if r != mqtt.Success {
				t.Fatalf("topic %d: %s", i, r)
			}
		}
		look()
		got := make(map[string]bool)
		for i := range topics {
			pub := m.NextPublish()
			if string(pub.Payload) != pub.Topic+" "+filler || !pub.Retain || got[pub.Topic] {
				t.Fatalf("%q: %.100q, retain %v, twice %v", pub.Topic, pub.Payload, pub.Retain, got[pub.Topic])
			}
			got[pub.Topic] = true
			if i%1000 == 0 {
				look()
			}
		}
		m.Ping()
		m.Send(&mqtt.Disconnect{})
		m.ExpectClose(1000)
	}
	read(func() {})
	before, most := heap(), int64(0)
	read(func() { most = max(most, heap()-before) })
	t.Logf("%d MB for %d MB", most>>20, topics*32000>>20)
	if most > 24<<20 {
		t.Errorf("%d bytes of heap for a client that did not read", most)
	}
}
