package session

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"pubsub"
	"pubsub/internal/mqtt"
)

var testOptions = Options{Epoch: time.Unix(0, 0), MaxMessageSize: 200, HandshakeTimeout: 10 * time.Second, MaxKeepAlive: 100,
	NewClientID: func() string { return "made-up" }}

// connected returns a connected session.
func connected(t testing.TB, c mqtt.Connect, g pubsub.Grant, now time.Time) *Session {
	t.Helper()
	c.Password, c.HasPassword = []byte("token"), true
	s, out := New(&testOptions, now), &Output{}
	s.Step(Packet{Raw: c.Append(nil)}, now, out)
	s.Step(Authorized{Admitted, &g}, now, out)
	s.Step(Claimed{}, now, out)
	if s.state != open {
		t.Fatalf("not connected: %+v", out)
	}
	return &s
}

func TestAllocations(t *testing.T) {
	now := time.Unix(1, 0)
	s := connected(t, mqtt.Connect{ClientID: "c1"}, pubsub.NewGrant(nil, []string{"t"}), now)
	ping := (&mqtt.Pingreq{}).Append(nil)
	publish := (&mqtt.Publish{Topic: "t", Payload: make([]byte, 100), Properties: []byte{1, 1}}).Append(nil)
	out := Output{Packets: make([]byte, 0, 100), Effects: make([]Effect, 0, 10)}
	for _, c := range []struct {
		name string
		raw  []byte
		max  float64
	}{
		{"PINGREQ", ping, 0},
		{"PUBLISH (packet, topic, data and effect)", publish, 4},
	} {
		got := testing.AllocsPerRun(100, func() {
			out.Reset()
			s.Step(Packet{Raw: c.raw}, now, &out)
		})
		if got > c.max {
			t.Errorf("%s: %v allocations, want at most %v", c.name, got, c.max)
		}
		if len(out.Packets)+len(out.Effects) == 0 || out.Close != 0 {
			t.Errorf("%s: output %+v", c.name, out)
		}
	}
	if size := unsafe.Sizeof(*s); size > 72 {
		t.Errorf("a Session has %d bytes, want at most 72", size)
	}
}

// Effects do not change when the driver reuses its buffer.
func TestEffectsOwnTheirMemory(t *testing.T) {
	now := time.Unix(1, 0)
	buf := (&mqtt.Connect{ClientID: "c1", Password: []byte("token"), HasPassword: true, Will: &mqtt.Will{
		Topic: "t", Payload: []byte("will"), Properties: []byte{1, 1}}}).Append(nil)
	g := pubsub.NewGrant([]string{"t"}, []string{"t"})
	s, out := New(&testOptions, now), &Output{}
	feed := func(p mqtt.Packet) {
		buf = p.Append(buf[:0])
		s.Step(Packet{Raw: buf, Topics: topicSet{}}, now, out)
		for i := range buf {
			buf[i] = 'X'
		}
	}
	s.Step(Packet{Raw: buf, Topics: topicSet{}}, now, out)
	for i := range buf {
		buf[i] = 'X'
	}
	s.Step(Authorized{Admitted, &g}, now, out)
	s.Step(Claimed{}, now, out)
	feed(&mqtt.Publish{Topic: "t", Payload: []byte("data"), Properties: []byte{1, 0}})
	feed(&mqtt.Subscribe{PacketID: 1, Filters: []mqtt.Filter{{Topic: "t"}}})
	s.Step(TransportClosed{}, now, out)

	if a := out.Effects[0].(Authorize); a.Token != "token" {
		t.Errorf("Authorize has changed: %+v", a)
	}
	if c := out.Effects[1].(Claim); c.ClientHash != HashClient(&g, "c1") || s.ClientHash() != c.ClientHash {
		t.Errorf("Claim has changed: %+v", c)
	}
	if m := out.Effects[2].(Publish).Message; m.Topic != "t" || string(m.Data) != "data" || !bytes.Equal(m.Properties, []byte{1, 0}) {
		t.Errorf("Publish has changed: %+v", m)
	}
	if sub := out.Effects[3].(Subscribe); sub.Subscriptions[0].Topic != "t" {
		t.Errorf("Subscribe has changed: %+v", sub)
	}
	if m := out.Effects[4].(Publish).Message; m.Topic != "t" || string(m.Data) != "will" || !bytes.Equal(m.Properties, []byte{1, 1}) {
		t.Errorf("Publish has changed: %+v", m)
	}
}

// topicSet holds the subscriptions of a client, for Packet.Topics.
type topicSet map[pubsub.Topic]bool

func (s topicSet) Has(t pubsub.Topic) bool { return s[t] }

func TestMaxPacketSize(t *testing.T) {
	for _, c := range []struct {
		asked uint32
		want  int
	}{{0, 0}, {100, 100}, {1<<32 - 1, 0}} {
		s := connected(t, mqtt.Connect{ClientID: "c1", MaximumPacketSize: c.asked}, pubsub.Grant{}, time.Unix(1, 0))
		if got := s.MaxPacketSize(); got != c.want {
			t.Errorf("CONNECT with %d: MaxPacketSize = %d, want %d", c.asked, got, c.want)
		}
	}
}

// playScript passes the events of script to a session and checks the invariants of the
// output. Now and then it acts like a driver that does not wait for answers. A script is a
// list of items: a byte that selects the event and, for a packet, its length in a byte and
// its bytes.
func playScript(t *testing.T, script []byte) {
	now := time.Unix(1000, 0)
	s, out := New(&testOptions, now), &Output{}
	g := pubsub.NewGrant([]string{"a", "b"}, []string{"a"})
	g.Expires = now.Add(20 * time.Second)
	maxPacket, ended, pending := 0, false, false
	for len(script) > 0 {
		kind := script[0]
		script = script[1:]
		var e Event
		switch kind % 16 {
		case 0:
			e = Authorized{Verdict(kind / 16 % 4), &g}
		case 1:
			e = Claimed{}
		case 2:
			e = Subscribed{Errs: []error{nil, errors.New("x")}[:kind/16%3]}
		case 3:
			e = Unsubscribed{}
		case 4:
			now = now.Add(time.Duration(kind/16) * time.Second)
			e = Tick{}
		case 5:
			e = []Event{TakenOver{}, Revoked{}, Draining{}, TransportClosed{}}[kind/16%4]
		case 6:
			e = Unreadable{First: kind, Err: &mqtt.Error{Reason: mqtt.PacketTooLarge}}
		default:
			if len(script) == 0 {
				return
			}
			n := min(int(script[0]), len(script)-1)
			e = Packet{Raw: script[1 : 1+n], Topics: topicSet{"t": true}}
			script = script[1+n:]
			if c, _, err := mqtt.Parse(e.(Packet).Raw); err == nil {
				if c, ok := c.(*mqtt.Connect); ok && maxPacket == 0 && s.state == awaitingConnect {
					maxPacket = int(c.MaximumPacketSize)
				}
			}
		}
		// A correct driver passes no packet while an answer is pending. One in four does.
		if _, ok := e.(Packet); ok && pending && kind/16%4 != 0 {
			continue
		}
		out.Reset()
		s.Step(e, now, out)
		checkOutput(t, out, ended, maxPacket)
		ended = ended || out.Close != 0 || e == Event(TransportClosed{})
		if ended != (s.state == closed) {
			t.Fatalf("after %#v: closed = %v", e, s.state == closed)
		}
		if ended && !s.Deadline(now).IsZero() {
			t.Fatal("the session has ended but has a deadline")
		}
		pending = s.state == authorizing || s.state == claiming || s.state == subscribing || s.state == unsubscribing
	}
}

// checkOutput checks the invariants of every output: nothing after the end, only packets
// that a server sends, none too long, and at most one effect that needs an answer.
func checkOutput(t *testing.T, out *Output, ended bool, maxPacket int) {
	t.Helper()
	if ended && (len(out.Packets) > 0 || len(out.Effects) > 0 || out.Close != 0) {
		t.Fatalf("output after the end: %+v", out)
	}
	for raw := out.Packets; len(raw) > 0 && !bytes.Equal(raw, mqtt.AppendVersionRefusal(nil)); {
		p, n, err := mqtt.Parse(raw)
		if err != nil {
			t.Fatalf("sent % x: %v", raw, err)
		}
		switch p.Type() {
		case mqtt.TypeConnack, mqtt.TypeSuback, mqtt.TypeUnsuback, mqtt.TypePingresp, mqtt.TypeDisconnect:
		default:
			t.Fatalf("sent %s", p.Type())
		}
		if maxPacket > 0 && n > maxPacket {
			t.Fatalf("sent %d bytes to a client with a maximum of %d", n, maxPacket)
		}
		raw = raw[n:]
	}
	requests := 0
	for _, e := range out.Effects {
		switch e := e.(type) {
		case Publish:
			if e.Message.Sender == "" || e.Message.Topic != "a" {
				t.Fatalf("published %+v", e)
			}
		case ReportDrop:
		default:
			requests++
		}
	}
	if requests > 1 {
		t.Fatalf("%d requests are pending: %+v", requests, out.Effects)
	}
}

// clientPackets returns valid packets for scripts.
func clientPackets() (packets [][]byte) {
	for _, p := range []mqtt.Packet{
		&mqtt.Connect{ClientID: "c", Password: []byte("p"), HasPassword: true, KeepAlive: 5},
		&mqtt.Connect{Password: []byte("p"), HasPassword: true, MaximumPacketSize: 30,
			Will: &mqtt.Will{Topic: "a", Payload: []byte("w")}},
		&mqtt.Connect{ClientID: "c"},
		&mqtt.Pingreq{},
		&mqtt.Publish{Topic: "a", Payload: []byte("x"), Properties: []byte{1, 1}},
		&mqtt.Publish{Topic: "b", Retain: true, HasExpiry: true},
		&mqtt.Publish{Topic: "a", QoS: 1, PacketID: 1},
		&mqtt.Subscribe{PacketID: 1, Filters: []mqtt.Filter{{Topic: "a"}, {Topic: "b", NoLocal: true}, {Topic: "c"}}},
		&mqtt.Subscribe{PacketID: 1, Filters: make([]mqtt.Filter, 40)},
		&mqtt.Unsubscribe{PacketID: 2, Filters: []string{"b", "#"}},
		&mqtt.Disconnect{},
		&mqtt.Disconnect{Reason: mqtt.DisconnectWithWill},
		&mqtt.Auth{},
	} {
		packets = append(packets, p.Append(nil))
	}
	return packets
}

func item(packet []byte) []byte { return append([]byte{7, byte(len(packet))}, packet...) }

func FuzzStep(f *testing.F) {
	packets := clientPackets()
	login := append(item(packets[1]), 0x10, 1) // CONNECT with a will, admitted, claimed
	for _, p := range packets {
		f.Add(slices.Concat(login, item(p), []byte{2, 3}, item(packets[3]), []byte{0x35}))
		f.Add(slices.Concat(item(p), []byte{0x10, 1, 0xf4, 0xf4}))
	}
	f.Fuzz(playScript)
}

// TestRandom plays random scripts of valid and corrupted packets.
func TestRandom(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	packets := clientPackets()
	for range 20000 {
		var script []byte
		if rnd.IntN(4) > 0 {
			script = append(item(packets[rnd.IntN(2)]), 0x10, 1)
		}
		for range rnd.IntN(12) {
			p := bytes.Clone(packets[rnd.IntN(len(packets))])
			if rnd.IntN(3) == 0 {
				p[rnd.IntN(len(p))] = byte(rnd.Uint32())
			}
			script = append(script, item(p)...)
			script = append(script, byte(rnd.Uint32())&0xf0|byte(rnd.IntN(7)))
		}
		playScript(t, script)
	}
}

// The hashes of different clients differ, even if their parts concatenate to the same
// string. All hashes have the same length.
func TestHashClient(t *testing.T) {
	seen := map[string]int{}
	for i, c := range []struct {
		grant    pubsub.Grant
		clientID string
	}{
		{pubsub.Grant{KeyID: "k", Subject: "s"}, "c"},
		{pubsub.Grant{KeyID: "k", Subject: "sc"}, ""},
		{pubsub.Grant{KeyID: "ks"}, "c"},
		{pubsub.Grant{KeyID: "k"}, "sc"},
		{pubsub.Grant{KeyID: "k"}, "\x01sc"},
		{pubsub.Grant{}, "\x01k\x01sc"},
		{pubsub.Grant{}, ""},
		{pubsub.Grant{Admin: true}, ""},
		{pubsub.Grant{Admin: true}, "c"},
		{pubsub.Grant{KeyID: strings.Repeat("k", 300), Subject: strings.Repeat("s", 5000)}, strings.Repeat("c", 32000)},
	} {
		hash := HashClient(&c.grant, c.clientID)
		if j, twice := seen[hash]; twice || len(hash) != ClientHashBytes || hash != HashClient(&c.grant, c.clientID) {
			t.Errorf("the hash of client %d is %x (client %d: the same), want 16 unique bytes", i, hash, j)
		}
		seen[hash] = i
	}
}
