//go:build e2e

package e2e

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"strconv"
	"testing"

	"github.com/eclipse/paho.golang/paho"
)

// connectNode starts Node and connects with MQTT.js. It returns the CONNACK.
func connectNode(t *testing.T, b *broker, options map[string]any) (s *script, connack map[string]any) {
	t.Helper()
	s = startScript(t, "node.js")
	var answer struct {
		SessionPresent bool
		Properties     map[string]any
	}
	s.do(t, "connect", map[string]any{"url": b.mqttURL, "options": options}, &answer)
	if answer.SessionPresent {
		t.Error("CONNACK has Session Present 1")
	}
	return s, answer.Properties
}

// TestProperties: the properties of a message reach subscribers of another library unaltered, live
// and retained, in both directions.
func TestProperties(t *testing.T) {
	b := startBroker(t)
	topics := []string{"from/js", "from/go"}
	token := b.token(t, topics, topics)
	node, _ := connectNode(t, b, mqttOptions(token, nil))
	paho1 := connectPaho(t, b, token)
	paho1.subscribe(t, "from/js")
	node.do(t, "subscribe", map[string]any{"topics": []string{"from/go"}}, nil)

	t.Run("from MQTT.js to Paho", func(t *testing.T) {
		node.do(t, "publish", map[string]any{
			"topic":   "from/js",
			"payload": []byte("hello"),
			"options": map[string]any{"retain": true, "properties": map[string]any{
				"payloadFormatIndicator": true,
				"contentType":            "text/x-greeting",
				"responseTopic":          "from/go",
				"correlationData":        []byte{0, 0xff, 7},
				"messageExpiryInterval":  600,
				"userProperties":         map[string]any{"k": []string{"v1", "v2"}, "é": "日本"},
			}},
		}, nil)
		check := func(p *paho.Publish) {
			t.Helper()
			got := p.Properties
			if string(p.Payload) != "hello" || got.ContentType != "text/x-greeting" || got.ResponseTopic != "from/go" ||
				!bytes.Equal(got.CorrelationData, []byte{0, 0xff, 7}) || got.PayloadFormat == nil || *got.PayloadFormat != 1 {
				t.Errorf("got %q with %+v", p.Payload, got)
			}
			if got.MessageExpiry == nil || *got.MessageExpiry > 600 || *got.MessageExpiry < 500 {
				t.Errorf("message expiry is %v, not 600 or a little less", got.MessageExpiry)
			}
			want := []paho.UserProperty{{Key: "k", Value: "v1"}, {Key: "k", Value: "v2"}, {Key: "é", Value: "日本"}}
			if fmt.Sprint(got.User) != fmt.Sprint(want) {
				t.Errorf("user properties are %v, not %v", got.User, want)
			}
		}
		check(paho1.nextPacket(t))
		late := connectPaho(t, b, token)
		late.subscribe(t, "from/js")
		check(late.nextPacket(t))
	})

	t.Run("from Paho to MQTT.js", func(t *testing.T) {
		format, expiry := byte(1), uint32(600)
		paho1.send(t, &paho.Publish{
			Topic: "from/go", Payload: []byte("hello"), Retain: true,
			Properties: &paho.PublishProperties{
				PayloadFormat:   &format,
				ContentType:     "text/x-greeting",
				ResponseTopic:   "from/js",
				CorrelationData: []byte{0, 0xff, 7},
				MessageExpiry:   &expiry,
				User:            paho.UserProperties{{Key: "k", Value: "v1"}, {Key: "k", Value: "v2"}},
			},
		})
		check := func(s *script) {
			t.Helper()
			e := s.await(t, "message")
			got := e.Properties
			if string(e.Payload) != "hello" || got.ContentType != "text/x-greeting" || got.ResponseTopic != "from/js" ||
				!bytes.Equal(got.CorrelationData, []byte{0, 0xff, 7}) || got.PayloadFormatIndicator != true {
				t.Errorf("got %q with %+v", e.Payload, got)
			}
			if got.MessageExpiryInterval == nil || *got.MessageExpiryInterval > 600 || *got.MessageExpiryInterval < 500 {
				t.Errorf("message expiry is %v, not 600 or a little less", got.MessageExpiryInterval)
			}
			if fmt.Sprint(got.UserProperties["k"]) != "[v1 v2]" {
				t.Errorf("user properties are %v", got.UserProperties)
			}
		}
		check(node)
		late, _ := connectNode(t, b, mqttOptions(token, nil))
		late.do(t, "subscribe", map[string]any{"topics": []string{"from/go"}}, nil)
		check(late)
	})
}

// TestConnack: MQTT.js and Paho read these properties of the server.
func TestConnack(t *testing.T) {
	b := startBroker(t)
	token := b.token(t, []string{"t"}, nil)
	options := mqttOptions(token, map[string]any{"clientId": ""})
	_, got := connectNode(t, b, options)
	for name, want := range map[string]any{
		"maximumQoS":                       1.0,
		"receiveMaximum":                   256.0,
		"maximumPacketSize":                32768.0,
		"wildcardSubscriptionAvailable":    false,
		"sharedSubscriptionAvailable":      false,
		"subscriptionIdentifiersAvailable": true,
		"retainAvailable":                  true,
	} {
		value, there := got[name]
		isDefault := want == true // the server may omit the standard's default
		if !there && isDefault {
			continue
		}
		if value != want {
			t.Errorf("CONNACK property %s is %v, not %v", name, value, want)
		}
	}
	if id, _ := got["assignedClientIdentifier"].(string); id == "" {
		t.Errorf("no client identifier was assigned: %v", got)
	}
}

// TestSubscriptions: each of several filters in a packet gets a reason, and the subscription
// options work as in MQTT 5.0 section 3.8.3.1.
func TestSubscriptions(t *testing.T) {
	b := startBroker(t)
	topics := []string{"a", "b"}
	token := b.token(t, topics, topics)
	node, _ := connectNode(t, b, mqttOptions(token, nil))
	b.mustPost(t, token, []byte("kept"), "topic", "a", "retain", "true")

	subscribe := func(want []int, topics []string, options map[string]any) {
		t.Helper()
		var codes []int
		node.do(t, "subscribe", map[string]any{"topics": topics, "options": options}, &codes)
		if fmt.Sprint(codes) != fmt.Sprint(want) {
			t.Errorf("SUBACK for %q has %#x, not %#x", topics, codes, want)
		}
	}
	next := func(payload string) scriptEvent {
		t.Helper()
		e := node.await(t, "message")
		if string(e.Payload) != payload {
			t.Fatalf("got %q, not %q", e.Payload, payload)
		}
		return e
	}

	// Granted, not authorised, wildcard and shared, in one packet. QoS 2 is granted as QoS 0.
	// Retain Handling 2: no retained message is sent.
	subscribe([]int{0, 0x87, 0xa2, 0x9e}, []string{"a", "theirs", "a/+", "$share/g/a"}, map[string]any{"qos": 2, "rh": 2})
	b.mustPost(t, token, []byte("live"), "topic", "a", "retain", "true")
	if next("live").Retain {
		t.Error("a live message has RETAIN 1 without Retain As Published")
	}

	// Retain Handling 1 on an existing subscription: again no retained message. The subscription
	// now has Retain As Published and a Subscription Identifier.
	subscribe([]int{0}, []string{"a"}, map[string]any{"rh": 1, "rap": true, "properties": map[string]any{"subscriptionIdentifier": 268435455}})
	b.mustPost(t, token, []byte("live 2"), "topic", "a", "retain", "true")
	e := next("live 2")
	if !e.Retain {
		t.Error("Retain As Published is not honoured")
	}
	if fmt.Sprint(e.Properties.SubscriptionIdentifier) != fmt.Sprint(268435455.0) {
		t.Errorf("the Subscription Identifier is %v", e.Properties.SubscriptionIdentifier)
	}

	// Retain Handling 0: the retained message once more, RETAIN 1.
	subscribe([]int{0}, []string{"a"}, map[string]any{"rh": 0})
	if !next("live 2").Retain {
		t.Error("a retained message has RETAIN 0")
	}

	// No Local: the client does not receive its own messages, only those of others.
	subscribe([]int{0}, []string{"b"}, map[string]any{"nl": true})
	node.do(t, "publish", map[string]any{"topic": "b", "payload": []byte("own")}, nil)
	node.do(t, "publish", map[string]any{"topic": "a", "payload": []byte("mark")}, nil)
	next("mark")
	b.mustPost(t, token, []byte("other's"), "topic", "b")
	next("other's")

	// No messages follow after UNSUBSCRIBE.
	var codes []int
	node.do(t, "unsubscribe", map[string]any{"topics": []string{"a", "never"}}, &codes)
	if fmt.Sprint(codes) != fmt.Sprint([]int{0, 0x11}) {
		t.Errorf("UNSUBACK has %#x, not 0x00 and 0x11", codes)
	}
	b.mustPost(t, token, []byte("unseen"), "topic", "a")
	b.mustPost(t, token, []byte("seen"), "topic", "b")
	next("seen")
}

// TestUnauthorisedPublish: a PUBLISH without permission is dropped, and the connection stays.
func TestUnauthorisedPublish(t *testing.T) {
	b := startBroker(t)
	token := b.token(t, []string{"mine", "theirs", "$x"}, []string{"mine"})
	c := connectPaho(t, b, token)
	c.subscribe(t, "mine", "theirs", "$x")
	for _, topic := range []string{"theirs", "$x", "mine"} {
		c.publish(t, topic, []byte(topic), false)
	}
	expect(t, c.next(t), "mine", []byte("mine"), false)
}

// TestRefusedConnect: MQTT.js reports a refusal with 0x87 for any invalid token.
func TestRefusedConnect(t *testing.T) {
	b := startBroker(t)
	wrong := pyJWT(t, b.keyID, "not the value", 3600, []string{"t"}, nil)
	unknown := pyJWT(t, "unknown", b.keyValue, 3600, []string{"t"}, nil)
	expired := pyJWT(t, b.keyID, b.keyValue, -60, []string{"t"}, nil)
	for name, token := range map[string]string{"signature": wrong, "kid": unknown, "exp": expired, "garbage": "x"} {
		t.Run(name, func(t *testing.T) {
			s := startScript(t, "node.js")
			options := mqttOptions(token, map[string]any{"reconnectPeriod": 0})
			s.try(t, "connect", map[string]any{"url": b.mqttURL, "options": options}, nil)
			if e := s.await(t, "error", "connect"); e.Kind != "error" || e.Reason != 0x87 {
				t.Errorf("got %s with reason %#x (%s), not an error with 0x87", e.Kind, e.Reason, e.Text)
			}
		})
	}
}

// TestTakeover: a second connection with the client identifier ends the first
// with DISCONNECT 0x8E.
func TestTakeover(t *testing.T) {
	b := startBroker(t)
	token := b.token(t, []string{"t"}, nil)
	options := mqttOptions(token, map[string]any{"reconnectPeriod": 0})
	first, _ := connectNode(t, b, options)
	connectNode(t, b, options)
	if e := first.await(t, "disconnect", "close"); e.Kind != "disconnect" || e.Reason != 0x8e {
		t.Errorf("the first connection got %s with reason %#x, not DISCONNECT 0x8E", e.Kind, e.Reason)
	}
}

// expectEnd checks that the broker ends a stream with a stream-error of that data, and a session
// with DISCONNECT 0x87.
func expectEnd(t *testing.T, stream *curlStream, session *script, data string) {
	t.Helper()
	if e := stream.next(t); e.kind != "stream-error" || e.data != data {
		t.Errorf("the stream got %+v", e)
	}
	if e := session.await(t, "disconnect", "close"); e.Kind != "disconnect" || e.Reason != 0x87 {
		t.Errorf("MQTT.js got %s with reason %#x, not DISCONNECT 0x87", e.Kind, e.Reason)
	}
}

// TestRevokedKey: deleting a key ends the clients of its tokens, which get the reason.
func TestRevokedKey(t *testing.T) {
	b := startBroker(t)
	token := b.token(t, []string{"t"}, nil)
	stream := openCurl(t, b.events("topic", "t", "auth", token))
	if e := stream.next(t); e.kind != "stream-open" {
		t.Fatalf("got %+v", e)
	}
	node, _ := connectNode(t, b, mqttOptions(token, map[string]any{"reconnectPeriod": 0}))
	curl(t, "--fail-with-body", "-X", "DELETE", "-H", "Fastly-Key: "+b.adminToken, b.url+"/admin/keys/"+b.keyID)
	expectEnd(t, stream, node, `{"condition":"token-revoked","text":"Token revoked"}`)
}

// TestExpiredToken: a stream and a session end when their token expires, and get the reason. A
// token ends 30 s after its exp, so one with an exp in the past still has a few seconds.
func TestExpiredToken(t *testing.T) {
	b := startBroker(t)
	token := pyJWT(t, b.keyID, b.keyValue, -22, []string{"t"}, nil)
	stream := openCurl(t, b.events("topic", "t", "auth", token))
	if e := stream.next(t); e.kind != "stream-open" {
		t.Fatalf("got %+v", e)
	}
	node, _ := connectNode(t, b, mqttOptions(token, map[string]any{"reconnectPeriod": 0}))
	expectEnd(t, stream, node, `{"condition":"token-expired","text":"Token expired"}`)
}

// TestWill: the will of a Node process that is killed is published, and that of one that
// disconnects is not.
func TestWill(t *testing.T) {
	b := startBroker(t)
	topics := []string{"status"}
	token := b.token(t, topics, topics)
	stream := openCurl(t, b.events("topic", "status", "auth", token))
	if e := stream.next(t); e.kind != "stream-open" {
		t.Fatalf("got %+v", e)
	}
	options := func(text string) map[string]any {
		return mqttOptions(token, map[string]any{"will": map[string]any{
			"topic": "status", "payload": text, "retain": true, "qos": 0,
		}})
	}
	polite, _ := connectNode(t, b, options("the polite one's will"))
	polite.do(t, "end", nil, nil)
	killed, _ := connectNode(t, b, options("gone"))
	killed.process.kill()
	if e := stream.next(t); e.data != "gone" {
		t.Errorf("got %+v, not the killed client's will", e)
	}
	fresh := newCurlClient(t, b, token)
	fresh.subscribe(t, "status")
	expect(t, fresh.next(t), "status", []byte("gone"), true)
}

// TestDrain: on SIGTERM an MQTT client gets 0x8B, an event stream ends after a keep-alive with a
// retry field, a will stays unpublished, and the server exits with 0.
func TestDrain(t *testing.T) {
	b := startBroker(t, "--drain-timeout", "1s")
	topics := []string{"t"}
	token := b.token(t, topics, topics)
	will := map[string]any{"topic": "t", "payload": "will", "retain": true, "qos": 0}
	options := mqttOptions(token, map[string]any{"reconnectPeriod": 0})
	maps.Copy(options, map[string]any{"will": will})
	node, _ := connectNode(t, b, options)
	stream := openCurl(t, b.events("topic", "t", "auth", token))
	if e := stream.next(t); e.kind != "stream-open" {
		t.Fatalf("got %+v", e)
	}
	if status := b.process.terminate(t); status != 0 {
		t.Errorf("after SIGTERM the exit status is %d", status)
	}
	if e := node.await(t, "disconnect", "close"); e.Kind != "disconnect" || e.Reason != 0x8b {
		t.Errorf("MQTT.js got %s with reason %#x, not DISCONNECT 0x8B", e.Kind, e.Reason)
	}
	var last []event
	for e := range stream.events {
		last = append(last, e)
	}
	if len(last) != 1 || last[0] != (event{kind: "keep-alive"}) {
		t.Errorf("the stream got %+v before its end", last)
	}
	if status := stream.process.cmd.ProcessState; status == nil || !status.Success() {
		t.Errorf("curl reports that the stream did not end cleanly: %v", status)
	}
	if ms, err := strconv.Atoi(stream.retry); err != nil || ms < 1000 || ms > 10000 {
		t.Errorf("the stream ended after the retry field %q, not one of 1 to 10 s", stream.retry)
	}
	b.start(t)
	c := newCurlClient(t, b, token)
	c.subscribe(t, "t")
	marker := fmt.Sprintf("%x", rand.Uint64())
	b.mustPost(t, token, []byte(marker), "topic", "t")
	expect(t, c.next(t), "t", []byte(marker), false)
}
