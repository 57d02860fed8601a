package mqtt

import (
	"errors"
	"reflect"
	"runtime"
	"testing"

	"pubsub/internal/testkit"
)

// Any input either fails with a reason that a server may send, or is a packet that is the
// same after Append and Parse.
func FuzzParse(f *testing.F) {
	for _, s := range samples {
		f.Add(testkit.Hex(s.hex))
	}
	f.Add(packet(0x10, "0006'MQIsdp' 03"))
	f.Add(packet(0x30, "0001't'", props("26 0000 0000 0b 01 26 0000 0000")))
	f.Add(testkit.Hex("30 ffffffff7f"))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, n, err := Parse(b)
		if err != nil {
			var e *Error
			if !errors.As(err, &e) && err != ErrIncomplete || e != nil && !e.Reason.Failed() {
				t.Fatalf("unexpected error: %v", err)
			}
			if p != nil || n != 0 {
				t.Fatalf("p = %#v, n = %d with an error", p, n)
			}
			return
		}
		if whole, err := PacketLen(b, n); err != nil || whole != n {
			t.Fatalf("Parse: n = %d, PacketLen = %d, %v", n, whole, err)
		}
		if c, ok := p.(*Connect); ok && c.Version != protocolVersion {
			return
		}
		raw := p.Append(nil)
		p2, n2, err := Parse(raw)
		if err != nil || n2 != len(raw) {
			t.Fatalf("Parse of % x: n = %d of %d, err = %v", raw, n2, len(raw), err)
		}
		if !reflect.DeepEqual(p, p2) {
			t.Fatalf("\n got %#v\nwant %#v", p2, p)
		}
		if m, ok := p.(*Publish); ok && m.Size() != len(raw) {
			t.Fatalf("Size = %d of %d", m.Size(), len(raw))
		}
	})
}

// The memory that Parse allocates is bounded by the length of the input, not by the lengths
// that the input claims. The worst case is a SUBSCRIBE with empty filters.
func TestParseAllocationBound(t *testing.T) {
	subscribe := Subscribe{PacketID: 1, Filters: make([]Filter, 10000)}
	publish := Publish{Topic: "t"}
	for range 5000 {
		publish.SubscriptionIDs = append(publish.SubscriptionIDs, 1)
		publish.Properties = append(publish.Properties, byte(propUserProperty), 0, 0, 0, 0)
	}
	for _, b := range [][]byte{
		subscribe.Append(nil),
		publish.Append(nil),
		testkit.Hex("10 ffffff7f 0004'MQTT' 05"),
		testkit.Hex("30 05 ffff 00000000"),
		testkit.Hex("30 06 0001't' ff ff 7f"),
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		p, _, err := Parse(b)
		runtime.ReadMemStats(&after)
		runtime.KeepAlive(p)
		if got, limit := after.TotalAlloc-before.TotalAlloc, uint64(50*len(b)+2048); got > limit {
			t.Errorf("%d bytes allocated for %d bytes of input (err %v), want at most %d", got, len(b), err, limit)
		}
	}
}

func TestAllocations(t *testing.T) {
	buf := make([]byte, 0, 4096)
	ids := []uint32{7}
	p := &Publish{Topic: "sport/tennis", Retain: true, HasExpiry: true, Expiry: 60, SubscriptionIDs: ids,
		Properties: testkit.Hex(forwarded), Payload: make([]byte, 128)}
	raw := p.Append(nil)
	contiguous := (&Publish{Topic: "sport/tennis", Properties: testkit.Hex(forwarded), Payload: make([]byte, 128)}).Append(nil)
	reasons := []ReasonCode{Success, NotAuthorized}
	ping := testkit.Hex("c0 00")
	for _, c := range []struct {
		name string
		max  float64
		f    func()
	}{
		{"Publish.Append", 0, func() { buf = p.Append(buf[:0]) }},
		{"Publish.AppendHead of a value", 0, func() {
			head := Publish{Topic: p.Topic, HasExpiry: true, Expiry: 9, SubscriptionIDs: ids, Payload: p.Payload}
			buf = head.AppendHead(buf[:0])
		}},
		{"Connack.Append", 0, func() {
			c := Connack{HasSessionExpiry: true, HasMaximumQoS: true, MaximumPacketSize: 32768, AssignedClientID: "id"}
			buf = c.Append(buf[:0])
		}},
		{"Suback.Append", 0, func() { s := Suback{PacketID: 1, Reasons: reasons}; buf = s.Append(buf[:0]) }},
		{"Unsuback.Append", 0, func() { s := Unsuback{PacketID: 1, Reasons: reasons}; buf = s.Append(buf[:0]) }},
		{"Pingresp.Append", 0, func() { buf = (&Pingresp{}).Append(buf[:0]) }},
		{"Disconnect.Append", 0, func() { d := Disconnect{Reason: KeepAliveTimeout}; buf = d.Append(buf[:0]) }},
		{"Parse of PINGREQ", 0, func() { Parse(ping) }},
		{"PacketLen", 0, func() { PacketLen(raw, 32768) }},
		{"Parse of PUBLISH (packet and topic)", 2, func() { Parse(contiguous) }},
		{"Parse of PUBLISH (packet, topic and subscription identifier)", 3, func() { Parse(raw) }},
	} {
		if got := testing.AllocsPerRun(100, c.f); got > c.max {
			t.Errorf("%s: %v allocations, want at most %v", c.name, got, c.max)
		}
	}
}
