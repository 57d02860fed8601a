package mqtt

import (
	"bytes"
	"reflect"
	"slices"
	"testing"

	"github.com/eclipse/paho.golang/packets"

	"pubsub/internal/testkit"
)

// Eclipse Paho reads packets of this package, and this package reads those of Paho: the
// samples are the same after Paho has read and written them.
func TestAgreesWithPaho(t *testing.T) {
	unsupported := map[string]string{
		"connect, all":        "Paho does not write most will properties",
		"publish, properties": "Paho keeps only one subscription identifier",
		"disconnect, empty":   "Paho expects a reason code",
		"auth, empty":         "Paho expects a reason code",
	}
	for _, s := range samples {
		if unsupported[s.name] == "" {
			t.Run(s.name, func(t *testing.T) { throughPaho(t, s.p) })
		}
	}
	t.Run("connect, will", func(t *testing.T) {
		throughPaho(t, &Connect{Version: 5, ClientID: "c1", UserName: "u", HasUserName: true,
			Will:          &Will{QoS: 1, Retain: true, Topic: "w", Payload: []byte("bw"), Delay: 10},
			SessionExpiry: 3600, ReceiveMaximum: 5, MaximumPacketSize: 4096, TopicAliasMaximum: 7,
			RequestResponse: true, NoProblemInfo: true, AuthMethod: "plain", HasAuthMethod: true})
	})
	t.Run("publish, forwarded properties", func(t *testing.T) {
		throughPaho(t, &Publish{Topic: "t", HasExpiry: true, Expiry: 5, TopicAlias: 3, SubscriptionIDs: []uint32{300},
			Properties: testkit.Hex(forwarded), Payload: []byte("pp")})
	})
}

func throughPaho(t *testing.T, p Packet) {
	theirs, err := packets.ReadPacket(bytes.NewReader(p.Append(nil)))
	if err != nil {
		t.Fatalf("Paho cannot read the packet: %v", err)
	}
	var raw bytes.Buffer
	if _, err := theirs.WriteTo(&raw); err != nil {
		t.Fatal(err)
	}
	back, n, err := Parse(raw.Bytes())
	if err != nil || n != raw.Len() {
		t.Fatalf("Parse of Paho's % x: n = %d, err = %v", raw.Bytes(), n, err)
	}
	if m, ok := p.(*Publish); ok { // Paho may change the order of properties
		want := *m
		want.Properties = slices.Sorted(slices.Values(m.Properties))
		got := back.(*Publish)
		got.Properties = slices.Sorted(slices.Values(got.Properties))
		p = &want
	}
	if !reflect.DeepEqual(back, p) {
		t.Errorf("Paho changes the packet to\n% x", raw.Bytes())
	}
}
