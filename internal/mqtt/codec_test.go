package mqtt

import (
	"bytes"
	"encoding/hex"
	"errors"
	"reflect"
	"strings"
	"testing"

	"pubsub/internal/testkit"
)

// forwarded has every property that a server forwards, and two user properties.
const forwarded = "01 01 26 0001'a' 0001'b' 03 0002'ct' 08 0001'r' 09 0002 ff00 26 0000 0000"

// samples are packets and their encodings according to the standard.
var samples = []struct {
	name string
	hex  string
	p    Packet
}{
	{"connect, minimal", "10 0d 0004'MQTT' 05 00 0000 00 0000",
		&Connect{Version: 5}},
	{"connect, all", "10 45 0004'MQTT' 05 ee 003c " +
		"1c 11 00000e10 21 0005 27 00001000 22 0007 19 01 17 00 15 0005'plain' " +
		"0002'c1' 0c 18 0000000a 02 00000014 01 01 0001'w' 0002'bw' 0001'u' 0001'p'",
		&Connect{Version: 5, CleanStart: true, KeepAlive: 60, ClientID: "c1",
			UserName: "u", HasUserName: true, Password: []byte("p"), HasPassword: true,
			Will: &Will{QoS: 1, Retain: true, Topic: "w", Payload: []byte("bw"),
				Delay: 10, HasExpiry: true, Expiry: 20, Properties: []byte{1, 1}},
			SessionExpiry: 3600, ReceiveMaximum: 5, MaximumPacketSize: 4096, TopicAliasMaximum: 7,
			RequestResponse: true, NoProblemInfo: true, AuthMethod: "plain", HasAuthMethod: true}},
	{"connect, client and password", "10 17 0004'MQTT' 05 42 000a 00 0002'c1' 0006'secret'",
		&Connect{Version: 5, CleanStart: true, KeepAlive: 10, ClientID: "c1", Password: []byte("secret"), HasPassword: true}},
	{"connack, success", "20 03 00 00 00", &Connack{}},
	{"connack, refused", "20 03 00 87 00", &Connack{Reason: NotAuthorized}},
	{"connack, all", "20 2b 01 00 28 11 00000000 21 0009 24 00 25 00 27 00008000 12 0002'id' " +
		"22 0001 1f 0003'why' 28 00 29 00 2a 00 13 0064",
		&Connack{SessionPresent: true, HasSessionExpiry: true, ReceiveMaximum: 9, HasMaximumQoS: true,
			NoRetain: true, MaximumPacketSize: 32768, AssignedClientID: "id", TopicAliasMaximum: 1,
			ReasonString: "why", NoWildcards: true, NoSubscriptionIDs: true, NoShared: true,
			HasServerKeepAlive: true, ServerKeepAlive: 100}},
	{"publish, minimal", "30 05 0001't' 00 'x'",
		&Publish{Topic: "t", Payload: []byte("x")}},
	{"publish, retained and empty", "31 04 0001't' 00",
		&Publish{Topic: "t", Retain: true, Payload: []byte{}}},
	{"publish, QoS 1", "3b 06 0001't' 0007 00",
		&Publish{Topic: "t", QoS: 1, Dup: true, Retain: true, PacketID: 7, Payload: []byte{}}},
	{"publish, properties", "30 2f 0001't' 29 02 00000005 23 0003 0b 8001 0b 02 " +
		forwarded + "'pp'",
		&Publish{Topic: "t", HasExpiry: true, Expiry: 5, TopicAlias: 3, SubscriptionIDs: []uint32{128, 2},
			Properties: testkit.Hex(forwarded), Payload: []byte("pp")}},
	{"puback", "40 02 0001", &Ack{Kind: TypePuback, PacketID: 1}},
	{"pubrec, reason", "50 04 0001 80 00", &Ack{Kind: TypePubrec, PacketID: 1, Reason: UnspecifiedError}},
	{"pubrel", "62 02 0001", &Ack{Kind: TypePubrel, PacketID: 1}},
	{"pubcomp", "70 02 0001", &Ack{Kind: TypePubcomp, PacketID: 1}},
	{"subscribe", "82 0d 0009 02 0b 05 0001'a' 00 0001'b' 2e",
		&Subscribe{PacketID: 9, SubscriptionID: 5, Filters: []Filter{
			{Topic: "a"}, {Topic: "b", QoS: 2, NoLocal: true, RetainAsPublished: true, RetainHandling: 2}}}},
	{"suback", "90 05 0009 00 00 8f",
		&Suback{PacketID: 9, Reasons: []ReasonCode{Success, TopicFilterInvalid}}},
	{"unsubscribe", "a2 08 000a 00 0001'a' 0000",
		&Unsubscribe{PacketID: 10, Filters: []string{"a", ""}}},
	{"unsuback", "b0 05 000a 00 00 11",
		&Unsuback{PacketID: 10, Reasons: []ReasonCode{Success, NoSubscriptionExisted}}},
	{"pingreq", "c0 00", &Pingreq{}},
	{"pingresp", "d0 00", &Pingresp{}},
	{"disconnect", "e0 02 00 00", &Disconnect{}},
	{"disconnect, reason", "e0 02 8e 00", &Disconnect{Reason: SessionTakenOver}},
	{"disconnect, properties", "e0 0d 04 0b 11 00000001 1f 0003'bye'",
		&Disconnect{Reason: DisconnectWithWill, SessionExpiry: 1, ReasonString: "bye"}},
	{"auth, empty", "f0 00", &Auth{}},
	{"auth", "f0 06 18 04 15 0001'm'", &Auth{Reason: ContinueAuthentication, Method: "m"}},
}

func TestSamples(t *testing.T) {
	for _, c := range samples {
		t.Run(c.name, func(t *testing.T) {
			raw := testkit.Hex(c.hex)
			p, n, err := Parse(append(bytes.Clone(raw), 0xff))
			if err != nil || n != len(raw) {
				t.Fatalf("Parse: n = %d of %d, err = %v", n, len(raw), err)
			}
			if !reflect.DeepEqual(p, c.p) {
				t.Errorf("Parse:\n got %#v\nwant %#v", p, c.p)
			}
			if p.Type() != TypeOf(raw[0]) {
				t.Errorf("Type = %v", p.Type())
			}
			if got := c.p.Append([]byte("before")); string(got) != "before"+string(raw) {
				t.Errorf("Append:\n got % x\nwant % x", got[6:], raw)
			}
			for i := range raw {
				if _, _, err := Parse(raw[:i]); err != ErrIncomplete {
					t.Errorf("Parse of the first %d bytes: %v", i, err)
				}
			}
		})
	}
}

// packet returns a packet with the given first byte and body, with its length in between.
func packet(first byte, body ...string) []byte {
	b := testkit.Hex(strings.Join(body, ""))
	return append(appendVarint([]byte{first}, uint32(len(b))), b...)
}

// props returns the hex of properties with their length in front.
func props(s string) string {
	b := testkit.Hex(s)
	return hex.EncodeToString(append(appendVarint(nil, uint32(len(b))), b...))
}

const connectHead = "0004'MQTT' 05 00 0000"

// Parse also reads other encodings than Append writes, and recognises other versions.
func TestParse(t *testing.T) {
	for _, c := range []struct {
		name string
		raw  []byte
		want Packet
	}{
		{"MQTT 3.1", packet(0x10, "0006'MQIsdp' 03 02 000a 0000"), &Connect{Version: 3}},
		{"MQIsdp with version 5", packet(0x10, "0006'MQIsdp' 05"), &Connect{Version: 3}},
		{"MQTT 3.1.1", packet(0x10, "0004'MQTT' 04 02 000a 0002'c1'"), &Connect{Version: 4}},
		{"MQTT 3.1.1 from a bridge", packet(0x10, "0004'MQTT' 84 02 000a 0002'c1'"), &Connect{Version: 0x84}},
		{"MQTT 6, everything else unknown", packet(0x1f, "0004'MQTT' 06 010203"), &Connect{Version: 6}},
		{"connect, explicit defaults",
			packet(0x10, connectHead, props("11 00000000 17 01 19 00 22 0000 26 0000 0000"), "0000"), &Connect{Version: 5}},
		{"connect, authentication data",
			packet(0x10, connectHead, props("16 0001 ff 15 0000"), "0000"), &Connect{Version: 5, HasAuthMethod: true}},
		{"connack, explicit defaults and unused properties", packet(0x20, "00 00",
			props("25 01 28 01 29 01 2a 01 22 0000 1a 0001'r' 1c 0001's' 15 0001'm' 16 0000 26 0000 0000")), &Connack{}},
		{"disconnect, empty", packet(0xe0, ""), &Disconnect{}},
		{"disconnect, reason 0", packet(0xe0, "00"), &Disconnect{}},
		{"disconnect, no properties", packet(0xe0, "04 00"), &Disconnect{Reason: DisconnectWithWill}},
		{"disconnect, unused properties", packet(0xe0, "9d", props("1c 0002'st' 26 0000 0000")), &Disconnect{Reason: ServerMoved}},
		{"puback, reason alone", packet(0x40, "0001 80"), &Ack{Kind: TypePuback, PacketID: 1, Reason: UnspecifiedError}},
		{"puback, no properties", packet(0x40, "0001 00 00"), &Ack{Kind: TypePuback, PacketID: 1}},
		{"puback, properties", packet(0x40, "0001 10", props("1f 0003'why' 26 0000 0000")),
			&Ack{Kind: TypePuback, PacketID: 1, Reason: NoMatchingSubscribers}},
		{"auth, no properties", packet(0xf0, "19 00"), &Auth{Reason: ReAuthenticate}},
		{"subscribe, user properties", packet(0x82, "0001", props("26 0000 0000 26 0000 0000"), "0001't' 00"),
			&Subscribe{PacketID: 1, Filters: []Filter{{Topic: "t"}}}},
		{"unsubscribe, user property", packet(0xa2, "0001", props("26 0000 0000"), "0001't'"),
			&Unsubscribe{PacketID: 1, Filters: []string{"t"}}},
		{"suback, properties", packet(0x90, "0001", props("1f 0001'w' 26 0000 0000"), "00"),
			&Suback{PacketID: 1, Reasons: []ReasonCode{Success}}},
		{"publish, forwarded properties are not contiguous",
			packet(0x30, "0001't'", props("26 0001'k' 0001'v' 01 00 02 00000001 03 0001'c' 0b 01 26 0000 0000"), "'x'"),
			&Publish{Topic: "t", HasExpiry: true, Expiry: 1, SubscriptionIDs: []uint32{1},
				Properties: testkit.Hex("26 0001'k' 0001'v' 01 00 03 0001'c' 26 0000 0000"), Payload: []byte("x")}},
		{"publish, alias instead of a topic", packet(0x30, "0000", props("23 ffff")),
			&Publish{TopicAlias: 65535, Payload: []byte{}}},
		{"publish, expiry 0", packet(0x30, "0001't'", props("02 00000000")),
			&Publish{Topic: "t", HasExpiry: true, Payload: []byte{}}},
		{"publish, U+FEFF and U+10FFFF", packet(0x30, "0007 efbbbf f48fbfbf 00"),
			&Publish{Topic: "\ufeff\U0010ffff", Payload: []byte{}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, n, err := Parse(c.raw)
			if err != nil || n != len(c.raw) {
				t.Fatalf("n = %d of %d, err = %v", n, len(c.raw), err)
			}
			if !reflect.DeepEqual(p, c.want) {
				t.Errorf("\n got %#v\nwant %#v", p, c.want)
			}
		})
	}
}

func TestParseErrors(t *testing.T) {
	user := "26 0000 0000"
	for _, c := range []struct {
		name string
		raw  []byte
		want ReasonCode
	}{
		{"type 0", packet(0x00), MalformedPacket},
		{"length of five bytes", testkit.Hex("30 ffffffff7f"), MalformedPacket},
		{"length encoding longer than necessary", testkit.Hex("c0 8000"), MalformedPacket},
		{"pingreq with a body", packet(0xc0, "00"), MalformedPacket},
		{"pingreq with flags", packet(0xc1), MalformedPacket},
		{"subscribe with flags 0", packet(0x80, "0001 00 0001't' 00"), MalformedPacket},
		{"unsubscribe with flags 3", packet(0xa3, "0001 00 0001't'"), MalformedPacket},
		{"pubrel with flags 0", packet(0x60, "0001"), MalformedPacket},
		{"disconnect with flags", packet(0xe8), MalformedPacket},

		{"connect, empty", packet(0x10), MalformedPacket},
		{"connect, other protocol", packet(0x10, "0004'HTTP' 05"), UnsupportedProtocolVersion},
		{"connect, flags in the header", packet(0x12, connectHead, "00 0000"), MalformedPacket},
		{"connect, reserved flag", packet(0x10, "0004'MQTT' 05 01 0000 00 0000"), MalformedPacket},
		{"connect, will QoS 3", packet(0x10, "0004'MQTT' 05 1c 0000 00 0000 00 0001'w' 0000"), MalformedPacket},
		{"connect, will QoS without will", packet(0x10, "0004'MQTT' 05 08 0000 00 0000"), ProtocolError},
		{"connect, will retain without will", packet(0x10, "0004'MQTT' 05 20 0000 00 0000"), ProtocolError},
		{"connect, will truncated", packet(0x10, "0004'MQTT' 05 04 0000 00 0000 00 0001'w'"), MalformedPacket},
		{"connect, no client identifier", packet(0x10, connectHead, "00"), MalformedPacket},
		{"connect, extra bytes", packet(0x10, connectHead, "00 0000 00"), MalformedPacket},
		{"connect, password truncated", packet(0x10, "0004'MQTT' 05 40 0000 00 0000 0005'abcd'"), MalformedPacket},
		{"connect, user name not UTF-8", packet(0x10, "0004'MQTT' 05 80 0000 00 0000 0001 ff"), MalformedPacket},
		{"connect, properties too long", packet(0x10, connectHead, "7f 0000"), MalformedPacket},
		{"connect, property truncated", packet(0x10, connectHead, props("11 0000"), "0000"), MalformedPacket},
		{"connect, property of publish", packet(0x10, connectHead, props("01 00"), "0000"), MalformedPacket},
		{"connect, property of the will", packet(0x10, connectHead, props("18 00000000"), "0000"), MalformedPacket},
		{"connect, unknown property", packet(0x10, connectHead, props("7e 00"), "0000"), MalformedPacket},
		{"connect, two-byte property identifier", packet(0x10, connectHead, props("8001 00"), "0000"), MalformedPacket},
		{"connect, duplicate property", packet(0x10, connectHead, props("21 0001 21 0001"), "0000"), ProtocolError},
		{"connect, receive maximum 0", packet(0x10, connectHead, props("21 0000"), "0000"), ProtocolError},
		{"connect, maximum packet size 0", packet(0x10, connectHead, props("27 00000000"), "0000"), ProtocolError},
		{"connect, request problem information 2", packet(0x10, connectHead, props("17 02"), "0000"), ProtocolError},
		{"connect, request response information 2", packet(0x10, connectHead, props("19 02"), "0000"), ProtocolError},
		{"connect, authentication data alone", packet(0x10, connectHead, props("16 0000"), "0000"), ProtocolError},
		{"will, response topic with wildcard",
			packet(0x10, "0004'MQTT' 05 04 0000 00 0000", props("08 0002'a+'"), "0001'w' 0000"), ProtocolError},
		{"will, payload format 2", packet(0x10, "0004'MQTT' 05 04 0000 00 0000", props("01 02"), "0001'w' 0000"), ProtocolError},
		{"will, topic alias", packet(0x10, "0004'MQTT' 05 04 0000 00 0000", props("23 0001"), "0001'w' 0000"), MalformedPacket},
		{"will, U+0000 in the topic", packet(0x10, "0004'MQTT' 05 04 0000 00 0000 00 0001 00 0000"), MalformedPacket},

		{"connack, reserved flags", packet(0x20, "02 00 00"), MalformedPacket},
		{"connack, maximum QoS 2", packet(0x20, "00 00", props("24 02")), ProtocolError},

		{"publish, QoS 3", packet(0x36, "0001't' 0001 00"), MalformedPacket},
		{"publish, dup with QoS 0", packet(0x38, "0001't' 00"), MalformedPacket},
		{"publish, packet identifier 0", packet(0x32, "0001't' 0000 00"), ProtocolError},
		{"publish, no topic", packet(0x30, "0000 00 'x'"), ProtocolError},
		{"publish, topic longer than packet", packet(0x30, "0009't' 00"), MalformedPacket},
		{"publish, U+0000", packet(0x30, "0002'a' 00 00"), MalformedPacket},
		{"publish, surrogate", packet(0x30, "0003 eda080 00"), MalformedPacket},
		{"publish, overlong", packet(0x30, "0002 c080 00"), MalformedPacket},
		{"publish, topic alias 0", packet(0x30, "0001't'", props("23 0000")), TopicAliasInvalid},
		{"publish, two topic aliases", packet(0x30, "0001't'", props("23 0001 23 0001")), ProtocolError},
		{"publish, two expiries", packet(0x30, "0001't'", props("02 00000001 02 00000001")), ProtocolError},
		{"publish, subscription identifier 0", packet(0x30, "0001't'", props("0b 00")), ProtocolError},
		{"publish, subscription identifier of five bytes", packet(0x30, "0001't'", props("0b ffffffff7f")), MalformedPacket},
		{"publish, payload format 2", packet(0x30, "0001't'", props("01 02")), ProtocolError},
		{"publish, response topic empty", packet(0x30, "0001't'", props("08 0000")), ProtocolError},
		{"publish, response topic with wildcard", packet(0x30, "0001't'", props("08 0001'#'")), ProtocolError},
		{"publish, U+0000 in content type", packet(0x30, "0001't'", props("03 0001 00")), MalformedPacket},
		{"publish, bad UTF-8 in user property value", packet(0x30, "0001't'", props("26 0001'k' 0001 ff")), MalformedPacket},
		{"publish, session expiry", packet(0x30, "0001't'", props("11 00000000")), MalformedPacket},

		{"puback, packet identifier 0", packet(0x40, "0000"), ProtocolError},
		{"puback, truncated", packet(0x40, "00"), MalformedPacket},

		{"subscribe, packet identifier 0", packet(0x82, "0000 00 0001't' 00"), ProtocolError},
		{"subscribe, no filter", packet(0x82, "0001 00"), ProtocolError},
		{"subscribe, no options", packet(0x82, "0001 00 0001't'"), MalformedPacket},
		{"subscribe, reserved options", packet(0x82, "0001 00 0001't' 40"), MalformedPacket},
		{"subscribe, QoS 3", packet(0x82, "0001 00 0001't' 03"), ProtocolError},
		{"subscribe, retain handling 3", packet(0x82, "0001 00 0001't' 30"), ProtocolError},
		{"subscribe, no local and shared", packet(0x82, "0001 00 000a'$share/g/t' 04"), ProtocolError},
		{"subscribe, subscription identifier 0", packet(0x82, "0001", props("0b 00"), "0001't' 00"), ProtocolError},
		{"subscribe, two subscription identifiers", packet(0x82, "0001", props("0b 01 0b 02"), "0001't' 00"), ProtocolError},
		{"subscribe, second filter not UTF-8", packet(0x82, "0001 00 0001't' 00 0001 fe 00"), MalformedPacket},

		{"unsubscribe, packet identifier 0", packet(0xa2, "0000 00 0001't'"), ProtocolError},
		{"unsubscribe, no filter", packet(0xa2, "0001", props(user)), ProtocolError},
		{"unsubscribe, U+0000", packet(0xa2, "0001 00 0001 00"), MalformedPacket},
		{"unsubscribe, subscription identifier", packet(0xa2, "0001", props("0b 01"), "0001't'"), MalformedPacket},
		{"suback, no reason", packet(0x90, "0001 00"), ProtocolError},

		{"disconnect, property of connack", packet(0xe0, "00", props("12 0000")), MalformedPacket},
		{"disconnect, extra bytes", packet(0xe0, "00 00 00"), MalformedPacket},
		{"disconnect, reason string not UTF-8", packet(0xe0, "00", props("1f 0001 ff")), MalformedPacket},
		{"auth, reason without properties", packet(0xf0, "18"), MalformedPacket},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, n, err := Parse(c.raw)
			var e *Error
			if !errors.As(err, &e) || e.Reason != c.want {
				t.Errorf("err = %v, want %v", err, c.want)
			}
			if p != nil || n != 0 {
				t.Errorf("Parse returned %#v and length %d with an error", p, n)
			}
		})
	}
}

func TestPacketLen(t *testing.T) {
	for _, c := range []struct {
		hex    string
		max    int
		n      int
		reason ReasonCode
	}{
		{"", 100, 0, 0},
		{"30", 100, 0, 0},
		{"30 80", 100, 0, 0},
		{"30 ff ff ff", MaxPacketLen, 0, 0},
		{"c0 00", 2, 2, 0},
		{"30 05", 100, 7, 0},
		{"30 62", 100, 100, 0},
		{"30 63", 100, 0, PacketTooLarge},
		{"30 80 01", 131, 131, 0},
		{"30 80 01", 130, 0, PacketTooLarge},
		{"30 ff ff ff 7f", MaxPacketLen, MaxPacketLen, 0},
		{"30 ff ff ff 7f", 32768, 0, PacketTooLarge},
		{"30 ff ff ff ff", MaxPacketLen, 0, MalformedPacket},
		{"30 80 00", 100, 0, MalformedPacket},
	} {
		n, err := PacketLen(testkit.Hex(c.hex), c.max)
		var reason ReasonCode
		if e := (*Error)(nil); errors.As(err, &e) {
			reason = e.Reason
		}
		if n != c.n || reason != c.reason {
			t.Errorf("PacketLen(%s, %d) = %d, %v; want %d, %v", c.hex, c.max, n, err, c.n, c.reason)
		}
	}
}

// Bodies just below and above each length at which the Remaining Length grows.
func TestLengths(t *testing.T) {
	for _, body := range []int{127, 128, 16383, 16384, 2097151, 2097152} {
		p := &Publish{Topic: "t", Payload: make([]byte, body-4)}
		raw := p.Append(nil)
		if len(raw) != p.Size() {
			t.Errorf("body of %d: %d bytes, Size = %d", body, len(raw), p.Size())
		}
		head := p.AppendHead(nil)
		if want := raw[:len(raw)-len(p.Payload)]; !bytes.Equal(head, want) {
			t.Errorf("body of %d: head % x, want % x", body, head, want)
		}
		if _, n, err := Parse(raw); err != nil || n != len(raw) {
			t.Errorf("body of %d: n = %d, err = %v", body, n, err)
		}
	}
	// Long properties exercise insertLen.
	d := &Disconnect{ReasonString: strings.Repeat("x", 20000)}
	if p, _, err := Parse(d.Append([]byte{1})[1:]); err != nil || !reflect.DeepEqual(p, d) {
		t.Errorf("long disconnect: %v", err)
	}
}

func TestAppendPanics(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("Append accepts a string of 65,536 bytes")
		}
	}()
	(&Publish{Topic: strings.Repeat("x", 65536)}).Append(nil)
}

func TestAppendVersionRefusal(t *testing.T) {
	if got := AppendVersionRefusal(nil); !bytes.Equal(got, []byte{0x20, 2, 0, 1}) {
		t.Errorf("AppendVersionRefusal = % x", got)
	}
}

func TestReasonString(t *testing.T) {
	for r, want := range map[ReasonCode]string{
		NotAuthorized: "0x87 not authorized", 0x03: "0x03", Success: "0x00 success",
	} {
		if got := r.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if Success.Failed() || DisconnectWithWill.Failed() || !UnspecifiedError.Failed() {
		t.Error("Failed reports a wrong result")
	}
	if got := Type(0).String() + " " + TypeAuth.String(); got != "Type(0) AUTH" {
		t.Errorf("String = %q", got)
	}
}
