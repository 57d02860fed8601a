package scenario

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"pubsub/internal/config"
	"pubsub/internal/mqtt"
	"pubsub/internal/testkit/wire"
)

// rawPacket returns a packet with that first byte and a body of less than 128 bytes.
func rawPacket(first byte, body ...string) []byte {
	b := strings.Join(body, "")
	if len(b) > 127 {
		panic("too long")
	}
	return append([]byte{first, byte(len(b))}, b...)
}

// The first packet must be CONNECT. Otherwise the WebSocket is closed with 1002 and without an MQTT
// packet.
func TestFirstPacketMustBeConnect(t *testing.T) {
	n := start(t)
	for name, b := range map[string][]byte{
		"PINGREQ":      {0xc0, 0},
		"SUBSCRIBE":    (&mqtt.Subscribe{PacketID: 1, Filters: []mqtt.Filter{{Topic: "t"}}}).Append(nil),
		"PUBLISH":      (&mqtt.Publish{Topic: "t"}).Append(nil),
		"DISCONNECT":   {0xe0, 0},
		"type 0":       {0, 0},
		"AUTH":         {0xf0, 0},
		"CONNACK":      {0x20, 3, 0, 0, 0},
		"HTTP":         []byte("GET / HTTP/1.1\r\n\r\n"),
		"too long":     {0x30, 0xff, 0xff, 0xff, 0x7f},
		"endless":      {0x30, 0xff, 0xff, 0xff, 0xff, 0x7f},
		"with CONNECT": append([]byte{0xc0, 0}, connectWith(adminToken)...),
	} {
		t.Run(name, func(t *testing.T) {
			m := n.upgrade()
			m.WriteFrame(wire.FIN|wire.OpBinary, b)
			m.ExpectClose(1002)
		})
	}
}

// A client that does not send a complete CONNECT within handshake-timeout is closed with 1002.
func TestConnectTimeout(t *testing.T) {
	n := start(t, func(c *config.Config) { c.HandshakeTimeout = 200 * time.Millisecond })
	for name, b := range map[string][]byte{
		"nothing":         nil,
		"half of CONNECT": connectWith(adminToken)[:10],
	} {
		t.Run(name, func(t *testing.T) {
			m := n.upgrade()
			if b != nil {
				m.WriteFrame(wire.FIN|wire.OpBinary, b)
			}
			m.ExpectClose(1002)
		})
	}
	// The timeout does not apply to clients that have connected.
	m := n.adminClient("t")
	time.Sleep(400 * time.Millisecond)
	m.Ping()
}

// A refused CONNECT is answered with a reason and a close code.
func TestConnectRefusals(t *testing.T) {
	n := start(t)
	const name, v5 = "\x00\x04MQTT", "\x05"
	password := "\x00\x01x"
	for _, tt := range []struct {
		name   string
		packet []byte
		reason mqtt.ReasonCode
		code   int
	}{
		{"version 6", rawPacket(0x10, name, "\x06\x02\x00\x00\x00\x00\x00"), 0x84, 1000},
		{"version 255", rawPacket(0x10, name, "\xff"), 0x84, 1000},
		{"unknown protocol", rawPacket(0x10, "\x00\x04HTTP", v5, "\x02\x00\x00\x00\x00\x00"), 0x84, 1000},
		{"reserved flag", rawPacket(0x10, name, v5, "\x03\x00\x00\x00\x00\x00"), 0x81, 1002},
		{"flags in the fixed header", rawPacket(0x11, name, v5, "\x02\x00\x00\x00\x00\x00"), 0x81, 1002},
		{"cut short", rawPacket(0x10, name, v5, "\x42\x00\x00\x00\x00\x00"), 0x81, 1002},
		{"bytes left over", rawPacket(0x10, name, v5, "\x42\x00\x00\x00\x00\x00", password, "x"), 0x81, 1002},
		{"invalid UTF-8 in the client identifier", rawPacket(0x10, name, v5, "\x42\x00\x00\x00\x00\x01\xff", password), 0x81, 1002},
		{"U+0000 in the client identifier", rawPacket(0x10, name, v5, "\x42\x00\x00\x00\x00\x01\x00", password), 0x81, 1002},
		{"length of five bytes", []byte{0x10, 0xff, 0xff, 0xff, 0xff, 0x01}, 0x81, 1002},
		{"a property twice", rawPacket(0x10, name, v5, "\x42\x00\x00\x0a\x11\x00\x00\x00\x01\x11\x00\x00\x00\x01\x00\x00", password), 0x82, 1002},
		{"Receive Maximum 0", rawPacket(0x10, name, v5, "\x42\x00\x00\x03\x21\x00\x00\x00\x00", password), 0x82, 1002},
		{"will QoS without a will", rawPacket(0x10, name, v5, "\x4a\x00\x00\x00\x00\x00", password), 0x82, 1002},
		{"above the maximum packet size", append([]byte{0x10, 0x81, 0x80, 0x02}, name...), 0x95, 1000},
		{"no password", rawPacket(0x10, name, v5, "\x02\x00\x00\x00\x00\x00"), 0x87, 1000},
		{"empty password", rawPacket(0x10, name, v5, "\x42\x00\x00\x00\x00\x00\x00\x00"), 0x87, 1000},
		{"user name alone", rawPacket(0x10, name, v5, "\x82\x00\x00\x00\x00\x00", password), 0x87, 1000},
		{"bad token", rawPacket(0x10, name, v5, "\x42\x00\x00\x00\x00\x00", password), 0x87, 1000},
		{"authentication method", rawPacket(0x10, name, v5, "\x42\x00\x00\x04\x15\x00\x01x\x00\x00", password), 0x8C, 1000},
		{"client identifier of 1,025 bytes", (&mqtt.Connect{ClientID: strings.Repeat("c", 1025), Password: []byte(adminToken), HasPassword: true}).Append(nil), 0x85, 1000},
		{"will QoS 2", rawPacket(0x10, name, v5, "\x56\x00\x00\x00\x00\x00\x00\x00\x01t\x00\x00", password), 0x9B, 1000},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := n.upgrade()
			m.WriteFrame(wire.FIN|wire.OpBinary, tt.packet)
			m.ExpectEnd(tt.reason, tt.code)
		})
	}
	// A version below 5, MQIsdp included, gets the CONNACK of MQTT 3.1.1, 20 02 00 01, and is
	// closed.
	for name, packet := range map[string][]byte{
		"3.1.1": rawPacket(0x10, name, "\x04\x02\x00\x3c\x00\x01c"),
		"3.1":   rawPacket(0x10, "\x00\x06MQIsdp\x03\x02\x00\x3c\x00\x01c"),
		"1":     rawPacket(0x10, name, "\x01"),
	} {
		t.Run(name, func(t *testing.T) {
			m := n.upgrade()
			m.WriteFrame(wire.FIN|wire.OpBinary, packet)
			op, b, err := m.ReadFrame()
			if op != wire.OpBinary || !bytes.Equal(b, []byte{0x20, 2, 0, 1}) || err != nil {
				t.Fatalf("opcode %d, % x, %v", op, b, err)
			}
			m.ExpectClose(1000)
		})
	}
}

// A CONNACK has these properties, and Session Present 0.
func TestConnack(t *testing.T) {
	n := start(t, func(c *config.Config) { c.MaxKeepAlive = 10 })
	for _, tt := range []struct {
		name     string
		c        mqtt.Connect
		lowered  bool
		assigned bool
	}{
		{"nothing asked for", mqtt.Connect{ClientID: "c", KeepAlive: 5}, false, false},
		{"the longest client identifier", mqtt.Connect{ClientID: strings.Repeat("c", 1024), KeepAlive: 5}, false, false},
		{"a session that outlives, a long keep-alive", mqtt.Connect{ClientID: "c", KeepAlive: 60, SessionExpiry: 100}, true, false},
		{"no identifier, no keep-alive", mqtt.Connect{CleanStart: true}, true, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := n.upgrade()
			got := *m.Connect(adminToken, tt.c)
			if assigned := got.AssignedClientID != ""; assigned != tt.assigned {
				t.Errorf("assigned client identifier %q", got.AssignedClientID)
			}
			if got.SessionPresent || got.MaximumQoS != 1 || !got.HasMaximumQoS || got.ReceiveMaximum != 256 || got.NoRetain || got.MaximumPacketSize != 32768 ||
				!got.NoWildcards || got.NoSubscriptionIDs || !got.NoShared || got.TopicAliasMaximum != 0 || got.SessionExpiry != 0 {
				t.Errorf("CONNACK is %+v", got)
			}
			if tt.c.SessionExpiry > 0 && !got.HasSessionExpiry {
				t.Error("the requested session expiry is not lowered")
			}
			if got.HasServerKeepAlive != tt.lowered || tt.lowered && got.ServerKeepAlive != 10 {
				t.Errorf("server keep-alive %v %d", got.HasServerKeepAlive, got.ServerKeepAlive)
			}
		})
	}
	a, b := n.upgrade().Connect(adminToken, mqtt.Connect{}), n.upgrade().Connect(adminToken, mqtt.Connect{})
	if a.AssignedClientID == b.AssignedClientID {
		t.Errorf("%q is assigned twice", a.AssignedClientID)
	}
}

// CONNACK has a Maximum Packet Size of max-message-size and 256 bytes.
func TestConnackMaximumPacketSize(t *testing.T) {
	n := start(t, func(c *config.Config) { c.MaxMessageSize = 1000 })
	if ack := n.upgrade().Connect(adminToken, mqtt.Connect{}); ack.MaximumPacketSize != 1256 {
		t.Errorf("Maximum Packet Size %d, want 1256", ack.MaximumPacketSize)
	}
}

// The token is the password of CONNECT, and the user name is ignored.
func TestUserNameIsIgnored(t *testing.T) {
	n := start(t)
	n.connect(n.token("t"), mqtt.Connect{UserName: "anybody", HasUserName: true}).Subscribe("t")
}

// A client identifier belongs to the key that signed the token, and its sub. A second connection
// with the same identifier takes over, and the older one gets DISCONNECT 0x8E. Other owners may use
// the same identifier.
func TestTakeover(t *testing.T) {
	n := start(t)
	other := n.newKey()
	rights := []string{"t"}
	tokens := map[string]string{
		"key":                   n.token("t"),
		"key, subject a":        n.key.token(rights, rights, claims{"sub": "a"}),
		"key, subject b":        n.key.token(rights, rights, claims{"sub": "b"}),
		"other key":             other.token(rights, rights, nil),
		"other key, subject a":  other.token(rights, rights, claims{"sub": "a"}),
		"the administrator":     adminToken,
		"subject with a client": n.key.token(rights, rights, claims{"sub": "a:c"}),
	}
	first := make(map[string]*wire.MQTT)
	for name, token := range tokens {
		first[name] = n.connect(token, mqtt.Connect{ClientID: "c"})
	}
	n.connect(n.token("t"), mqtt.Connect{ClientID: "C"}).Ping()
	for _, m := range first {
		m.Ping()
	}
	for name, token := range tokens {
		second := n.connect(token, mqtt.Connect{ClientID: "c"})
		first[name].ExpectEnd(mqtt.SessionTakenOver, 1000)
		delete(first, name)
		for _, m := range first {
			m.Ping()
		}
		second.Ping()
	}
	// A different token of the same key and subject is the same owner.
	last := n.connect(n.key.token(rights, rights, claims{"iat": 1}), mqtt.Connect{ClientID: "x"})
	n.connect(n.key.token(nil, nil, claims{"iat": 2}), mqtt.Connect{ClientID: "x"}).Ping()
	last.ExpectEnd(mqtt.SessionTakenOver, 1000)
}

// A client that sends no packet in 1.5 times its keep-alive interval gets DISCONNECT 0x8D.
func TestKeepAlive(t *testing.T) {
	n := start(t)
	begun := time.Now()
	silent := n.connect(adminToken, mqtt.Connect{KeepAlive: 1})
	alive := n.connect(adminToken, mqtt.Connect{KeepAlive: 1})
	never := n.connect(adminToken, mqtt.Connect{})
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			case <-time.After(200 * time.Millisecond):
				alive.Conn.Write(wire.AppendFrame(nil, wire.FIN|wire.OpBinary, []byte{0xc0, 0}))
			}
		}
	}()
	// A WebSocket ping is not a packet.
	silent.WriteFrame(wire.FIN|wire.OpPing, nil)
	if op, _, err := silent.ReadFrame(); op != wire.OpPong || err != nil {
		t.Errorf("opcode %d, %v", op, err)
	}
	silent.ExpectEnd(mqtt.KeepAliveTimeout, 1000)
	if d := time.Since(begun); d < 1500*time.Millisecond {
		t.Errorf("ended after %v already", d)
	}
	close(stop)
	<-stopped
	never.Ping()
	alive.Send(&mqtt.Disconnect{})
	for {
		p, err := alive.Read()
		if err != nil {
			if c, ok := err.(wire.Closed); !ok || c.Code != 1000 {
				t.Errorf("the client that sent packets: %v", err)
			}
			return
		}
		if p.Type() != mqtt.TypePingresp {
			t.Fatalf("the client that sent packets got %s %+v", p.Type(), p)
		}
	}
}

// A second CONNECT ends the session with 0x82, and other faults end it with these reasons.
func TestFaultsAfterConnack(t *testing.T) {
	n := start(t)
	long := strings.Repeat("x", 32513)
	for _, tt := range []struct {
		name   string
		packet []byte
		reason mqtt.ReasonCode
		code   int
	}{
		{"second CONNECT", connectWith(adminToken), 0x82, 1002},
		{"CONNACK", []byte{0x20, 3, 0, 0, 0}, 0x82, 1002},
		{"PUBACK", []byte{0x40, 2, 0, 1}, 0x82, 1002},
		{"PUBREC", []byte{0x50, 2, 0, 1}, 0x82, 1002},
		{"PUBCOMP", []byte{0x70, 2, 0, 1}, 0x82, 1002},
		{"PUBREL", []byte{0x62, 2, 0, 1}, 0x82, 1002},
		{"SUBACK", []byte{0x90, 4, 0, 1, 0, 0}, 0x82, 1002},
		{"PINGRESP", []byte{0xd0, 0}, 0x82, 1002},
		{"AUTH", []byte{0xf0, 0}, 0x82, 1002},
		{"type 0", []byte{0, 0}, 0x81, 1002},
		{"length of five bytes", []byte{0x30, 0xff, 0xff, 0xff, 0xff, 0x01}, 0x81, 1002},
		{"PINGREQ with flags", []byte{0xc1, 0}, 0x81, 1002},
		{"DISCONNECT that prolongs the session", rawPacket(0xe0, "\x00\x05\x11\x00\x00\x00\x01"), 0x82, 1002},

		{"SUBSCRIBE without filters", rawPacket(0x82, "\x00\x01\x00"), 0x82, 1002},
		{"SUBSCRIBE with packet identifier 0", rawPacket(0x82, "\x00\x00\x00\x00\x01t\x00"), 0x82, 1002},
		{"SUBSCRIBE with U+0000", rawPacket(0x82, "\x00\x01\x00\x00\x01\x00\x00"), 0x81, 1002},
		{"SUBSCRIBE with invalid UTF-8", rawPacket(0x82, "\x00\x01\x00\x00\x01\xff\x00"), 0x81, 1002},
		{"SUBSCRIBE with reserved options", rawPacket(0x82, "\x00\x01\x00\x00\x01t\x80"), 0x81, 1002},
		{"SUBSCRIBE with QoS 3", rawPacket(0x82, "\x00\x01\x00\x00\x01t\x03"), 0x82, 1002},
		{"SUBSCRIBE with retain handling 3", rawPacket(0x82, "\x00\x01\x00\x00\x01t\x30"), 0x82, 1002},
		{"SUBSCRIBE with subscription identifier 0", rawPacket(0x82, "\x00\x01\x02\x0b\x00\x00\x01t\x00"), 0x82, 1002},
		{"UNSUBSCRIBE without filters", rawPacket(0xa2, "\x00\x01\x00"), 0x82, 1002},

		{"PUBLISH QoS 1 with packet identifier 0", rawPacket(0x32, "\x00\x01t\x00\x00\x00x"), 0x82, 1002},
		{"PUBLISH QoS 1 to +", rawPacket(0x32, "\x00\x03a/+\x00\x01\x00x"), 0x90, 1000},
		{"PUBLISH QoS 2", rawPacket(0x34, "\x00\x01t\x00\x01\x00x"), 0x9B, 1000},
		{"PUBLISH QoS 3", rawPacket(0x36, "\x00\x01t\x00\x01\x00x"), 0x81, 1002},
		{"PUBLISH with a topic alias", rawPacket(0x30, "\x00\x01t\x03\x23\x00\x01x"), 0x94, 1000},
		{"PUBLISH with a topic alias alone", rawPacket(0x30, "\x00\x00\x03\x23\x00\x01x"), 0x94, 1000},
		{"PUBLISH without a topic", rawPacket(0x30, "\x00\x00\x00x"), 0x82, 1002},
		{"PUBLISH to +", rawPacket(0x30, "\x00\x03a/+\x00x"), 0x90, 1000},
		{"PUBLISH to #", rawPacket(0x30, "\x00\x01#\x00x"), 0x90, 1000},
		{"PUBLISH to a control character", rawPacket(0x30, "\x00\x02a\x01\x00x"), 0x90, 1000},
		{"PUBLISH to U+FEFF", rawPacket(0x30, "\x00\x03\xef\xbb\xbf\x00x"), 0x90, 1000},
		{"PUBLISH to 1,025 bytes", (&mqtt.Publish{Topic: long[:1025]}).Append(nil), 0x90, 1000},
		{"PUBLISH to U+0000", rawPacket(0x30, "\x00\x01\x00\x00x"), 0x81, 1002},
		{"PUBLISH to invalid UTF-8", rawPacket(0x30, "\x00\x01\xff\x00x"), 0x81, 1002},
		{"PUBLISH with a subscription identifier", rawPacket(0x30, "\x00\x01t\x02\x0b\x01x"), 0x82, 1002},
		{"PUBLISH of a message above the maximum", (&mqtt.Publish{Topic: "t", Payload: []byte(long)}).Append(nil), 0x95, 1000},
		{"PUBLISH above the maximum packet size", (&mqtt.Publish{Topic: "t", Payload: []byte(long + long[:1000])}).Append(nil), 0x95, 1000},
		{"packet that claims 268 MB", []byte{0x30, 0xff, 0xff, 0xff, 0x7f}, 0x95, 1000},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := n.adminClient()
			m.WriteFrame(wire.FIN|wire.OpBinary, tt.packet)
			m.ExpectEnd(tt.reason, tt.code)
		})
	}
}

// A DISCONNECT of the client ends the connection with a close frame.
func TestDisconnect(t *testing.T) {
	n := start(t)
	m := n.adminClient()
	m.Send(&mqtt.Disconnect{})
	m.ExpectClose(1000)
}
