//go:build e2e

package e2e

import (
	"bytes"
	"strings"
	"testing"
)

// client is a real client program. Its methods fail the test if they do not succeed within
// [patience].
type client interface {
	// subscribe returns once the subscription is live.
	subscribe(t *testing.T, topics ...string)
	// publish returns when the message is accepted, or, without a response in the
	// protocol, sent.
	publish(t *testing.T, topic string, payload []byte, retain bool)
	// next waits for the next message.
	next(t *testing.T) message
	// resume returns when the client has subscribed again after a crash of the
	// server. All but curl reconnect by themselves.
	resume(t *testing.T)
}

// message is a message that a client has received.
type message struct {
	topic   string // "" if the protocol does not name it
	payload []byte
	// retained: for MQTT the RETAIN flag; for SSE whether the event had an id
	// of its own, which live retained messages have too.
	retained bool
}

// kinds are the clients that take part in TestClients.
var kinds = []struct {
	name string
	mqtt bool
	open func(t *testing.T, b *broker, token string) client
}{
	{"curl", false, newCurlClient},
	{"EventSource", false, newPageClient},
	{"MQTT.js in Node", true, newNodeClient},
	{"MQTT.js in Chromium", true, newPageMQTTClient},
	{"autopaho", true, newPahoClient},
}

// TestClients: each client subscribes, publishes, receives messages of the other protocol, gets the
// retained messages, and resumes after a crash of the server.
func TestClients(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind.name, func(t *testing.T) {
			// A topic that needs escaping in a query, in an event id and in a
			// path, and one with a single message.
			busy, quiet := "café/1:2,3 %41", "quiet"
			topics := []string{busy, quiet}
			b := startBroker(t)
			token := b.token(t, topics, topics)

			c := kind.open(t, b, token)
			c.subscribe(t, topics...)
			byHTTP, byMQTT := newCurlClient(t, b, token), newPahoClient(t, b, token)
			byHTTP.subscribe(t, topics...)
			byMQTT.subscribe(t, topics...)
			all := []client{c, byHTTP, byMQTT}

			// Each client publishes to all clients.
			binary := make([]byte, 256) // every byte, so not valid UTF-8
			for i := range binary {
				binary[i] = byte(i)
			}
			texts := map[string][]byte{
				"text":   []byte("two lines\nand 日本語 🎈"),
				"empty":  {},
				"binary": binary,
				"large":  []byte(strings.Repeat("0123456789abcdef", 32512/16)),
			}
			for i, from := range []string{"from the client", "by HTTP", "by MQTT"} {
				for name, payload := range texts {
					t.Run(from+" "+name, func(t *testing.T) {
						all[i].publish(t, busy, payload, false)
						for _, to := range all {
							expect(t, to.next(t), busy, payload, false)
						}
					})
					if t.Failed() {
						t.FailNow() // the next steps would read the wrong messages
					}
				}
			}

			step(t, "retained messages reach the live subscribers", func(t *testing.T) {
				for i, value := range []string{"v1", "v2", "v3"} {
					all[i].publish(t, busy, []byte(value), true)
					for j, to := range all {
						m := to.next(t)
						live := j == 2 || j == 0 && kind.mqtt // live over MQTT: RETAIN 0
						expect(t, m, busy, []byte(value), !live)
					}
				}
				b.mustPost(t, token, []byte("q1"), "topic", quiet, "retain", "true")
				for _, to := range all {
					if m := to.next(t); string(m.payload) != "q1" {
						t.Fatalf("got %q, not q1", m.payload)
					}
				}
			})

			step(t, "retained messages reach a new subscriber", func(t *testing.T) {
				late := kind.open(t, b, token)
				late.subscribe(t, topics...)
				got := map[string]bool{}
				for range topics {
					m := late.next(t)
					if !m.retained {
						t.Errorf("the retained message %q is not marked as retained", m.payload)
					}
					got[string(m.payload)] = true
				}
				if !got["v3"] || !got["q1"] {
					t.Fatalf("a new subscriber got %v, not v3 and q1", got)
				}
			})

			step(t, "a crash of the server", func(t *testing.T) {
				b.crash()
				b.start(t)
				fresh := newCurlClient(t, b, token)
				fresh.subscribe(t, busy)
				expect(t, fresh.next(t), busy, []byte("v3"), true)

				b.mustPost(t, token, []byte("v4"), "topic", busy, "retain", "true")
				for _, back := range all {
					back.resume(t)
				}
				for i, back := range all {
					mqtt := i == 2 || i == 0 && kind.mqtt
					untilNewest(t, back, mqtt)
				}
				b.mustPost(t, token, []byte("after"), "topic", busy)
				for _, back := range all {
					expect(t, back.next(t), busy, []byte("after"), false)
				}
				c.publish(t, busy, []byte("still publishing"), false)
				for _, back := range all {
					expect(t, back.next(t), busy, []byte("still publishing"), false)
				}
			})
		})
	}
}

// step runs a step of a test as a subtest. The test ends with the first step that fails.
func step(t *testing.T, name string, f func(t *testing.T)) {
	t.Helper()
	if !t.Run(name, f) {
		t.FailNow()
	}
}

func expect(t *testing.T, m message, topic string, payload []byte, retained bool) {
	t.Helper()
	if !bytes.Equal(m.payload, payload) {
		t.Fatalf("got the message %.80q of %d bytes, want %.80q of %d", m.payload, len(m.payload), payload, len(payload))
	}
	if m.topic != "" && m.topic != topic {
		t.Errorf("the message %.80q came with topic %q, want %q", m.payload, m.topic, topic)
	}
	if m.retained != retained {
		t.Errorf("the message %.80q came with retained=%v", m.payload, m.retained)
	}
}

// untilNewest reads until v4, after a crash before which the client had read v3 and q1, and after
// which v4 was published. A stream of events resumes, so it gets only v4. An MQTT session is new,
// so it gets the retained message of each topic, q1 and v4, perhaps after v3 if it reconnected
// before v4.
func untilNewest(t *testing.T, c client, mqtt bool) {
	t.Helper()
	if !mqtt {
		expect(t, c.next(t), "", []byte("v4"), true)
		return
	}
	var got []string
	seen := map[string]bool{}
	for !seen["v4"] || !seen["q1"] {
		m := string(c.next(t).payload)
		got = append(got, m)
		if m != "q1" && m != "v3" && m != "v4" || seen[m] || m == "v3" && seen["v4"] {
			t.Fatalf("after the crash the client got %q", got)
		}
		seen[m] = true
	}
}
