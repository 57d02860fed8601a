package mqtt

import (
	"bytes"
	"reflect"
	"slices"
	"testing"

	"github.com/eclipse/paho.golang/packets"
)

// Another implementation must read what we write, and we what it writes: the
// samples are passed through Eclipse Paho and must come back the same.
func TestAgreesWithPaho(t *testing.T) {
	beyondPaho := map[string]string{
		"connect, all":        "it leaves most will properties out when it writes",
		"publish, properties": "it keeps one subscription identifier only",
		"disconnect, empty":   "it expects a reason code",
		"auth, empty":         "it expects a reason code",
	}
	for _, s := range samples {
		if beyondPaho[s.name] == "" {
			t.Run(s.name, func(t *testing.T) { throughPaho(t, s.p) })
		}
	}
	t.Run("connect, will", func(t *testing.T) {
		throughPaho(t, &Connect{Version: 5, ClientID: "c1", UserName: "u", HasUserName: true,
			Will:          &Will{QoS: 1, Retain: true, Topic: "w", Payload: []byte("bw"), Delay: 10},
			SessionExpiry: 3600, ReceiveMaximum: 5, MaximumPacketSize: 4096, TopicAliasMaximum: 7,
			RequestResponse: true, NoProblemInfo: true, AuthMethod: "plain", HasAuthMethod: true})
	})
	t.Run("publish, properties that travel", func(t *testing.T) {
		throughPaho(t, &Publish{Topic: "t", HasExpiry: true, Expiry: 5, TopicAlias: 3, SubscriptionIDs: []uint32{300},
			Properties: mustHex(travelling), Payload: []byte("pp")})
	})
}

func throughPaho(t *testing.T, p Packet) {
	theirs, err := packets.ReadPacket(bytes.NewReader(p.Append(nil)))
	if err != nil {
		t.Fatalf("Paho cannot read it: %v", err)
	}
	var raw bytes.Buffer
	if _, err := theirs.WriteTo(&raw); err != nil {
		t.Fatal(err)
	}
	back, n, err := Parse(raw.Bytes())
	if err != nil || n != raw.Len() {
		t.Fatalf("Parse of Paho's % x: n = %d, err = %v", raw.Bytes(), n, err)
	}
	if m, ok := p.(*Publish); ok { // Paho orders properties in its own way
		want := *m
		want.Properties = slices.Sorted(slices.Values(m.Properties))
		got := back.(*Publish)
		got.Properties = slices.Sorted(slices.Values(got.Properties))
		p = &want
	}
	if !reflect.DeepEqual(back, p) {
		t.Errorf("Paho makes of it\n% x", raw.Bytes())
	}
}
