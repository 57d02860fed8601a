//go:build linux

package main

import (
	"cmp"
	"context"
	"os/exec"
	"strings"
	"time"

	"pubsub"
	"pubsub/bench/internal/load"
	"pubsub/internal/testkit/process"
	"pubsub/internal/token"
)

// adminToken is the token of brokers that live as long as a measurement, on loopback.
const adminToken = "bench"

// ours is the broker of this tree, with subscribers of one transport.
type ours struct {
	transport string // sse or mqtt
	o         *options
}

func (t *ours) prepare(o *options, dir string) (version string, err error) {
	t.o = o
	if o.binary == "" {
		if o.binary, err = process.Build(context.Background(), dir); err != nil {
			return "", err
		}
	}
	out, err := exec.Command(o.binary, "version").Output()
	version, _, _ = strings.Cut(string(out), "\n")
	return version + ", " + t.o.settings(), err
}

func (t *ours) start(string) (*server, error) {
	b, err := startBroker(t.o, t.transport, "--in-memory")
	if err != nil {
		return nil, err
	}
	return &b.server, nil
}

// broker is a process of our broker.
type broker struct {
	server
	ops string
	key pubsub.Key // signs the subscribers' tokens
}

func (o *options) settings() string { return strings.TrimSpace("--holder=" + o.holder + " " + o.serve) }

// startBroker starts a broker whose subscribers use transport. store is the flag that selects its
// store.
func startBroker(o *options, transport, store string) (*broker, error) {
	node, err := process.StartBroker(context.Background(), o.binary, adminToken, append([]string{store}, strings.Fields(o.settings())...)...)
	if err != nil {
		return nil, err
	}
	b := &broker{server: server{Process: node.Process}, ops: node.Ops}
	if b.key, err = process.CreateKey(b.Addr, adminToken); err != nil {
		b.Stop()
		return nil, err
	}
	b.handshakes = func(n int, topic func(int) string) ([][]load.Step, error) {
		return b.subscribe(transport, o.tokens, n, topic)
	}
	b.publisher = func(topic string, size int) (*load.Publisher, error) {
		if cmp.Or(o.publish, transport) == "mqtt" {
			return mqttPublisher(b.Addr, adminToken, topic, size, true)
		}
		return load.Post(b.Addr, "/events?topic="+topic, adminToken, size)
	}
	return b, nil
}

// subscribe returns the handshakes of n subscribers, each with a token of its own, or all with the
// admin token.
func (b *broker) subscribe(transport, tokens string, n int, topic func(int) string) ([][]load.Step, error) {
	expires := time.Now().Add(time.Hour)
	var failed error
	hs := load.Handshakes(n, func(i int) []load.Step {
		id, bearer := clientID(topic(i), i), adminToken
		if tokens == "own" {
			raw, err := token.Sign(b.key, token.Claims{Read: []string{topic(i)}, Subject: id, Expires: expires})
			if err != nil {
				failed = err
			}
			bearer = raw
		}
		if transport == "mqtt" {
			return overWebSocket("/mqtt", mqttSubscribe(id, bearer, topic(i)))
		}
		return load.SSESubscribe("/events?topic="+topic(i), bearer)
	})
	return hs, failed
}

// metric returns the sum of the samples of a metric whose labels contain all of with.
func (b *broker) metric(name string, with ...string) (float64, error) {
	m, err := process.ReadMetrics(context.Background(), b.ops)
	return m.Sum(name, with...), err
}

// inUse returns the bytes of heap and stacks in use after the last garbage collection.
func (b *broker) inUse() (float64, error) {
	m, err := process.ReadMetrics(context.Background(), b.ops)
	return m.Sum("go_memstats_heap_inuse_bytes") + m.Sum("go_memstats_stack_inuse_bytes"), err
}
