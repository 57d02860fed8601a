//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"pubsub"
	"pubsub/internal/token"
)

// adminToken is of brokers that live as long as a measurement, on loopback.
const adminToken = "bench"

// ours is the broker of this tree, with subscribers of one transport.
type ours struct {
	transport string // sse or mqtt
	o         *options
}

func (t *ours) prepare(o *options, dir string) (version string, err error) {
	t.o = o
	if o.binary == "" {
		o.binary = filepath.Join(dir, "pubsub")
		if out, err := exec.Command("go", "build", "-buildvcs=auto", "-o", o.binary, "pubsub/cmd/pubsub").CombinedOutput(); err != nil {
			return "", fmt.Errorf("go build: %w\n%s", err, out)
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

// broker is a broker of ours.
type broker struct {
	server
	ops string
	key pubsub.Key // signs the subscribers' tokens
}

func (o *options) settings() string { return strings.TrimSpace("--holder=" + o.holder + " " + o.serve) }

// startBroker starts a broker whose subscribers use transport; store is a flag
// that says where it keeps what is retained.
func startBroker(o *options, transport, store string) (*broker, error) {
	addr, _, err := freeAddress()
	if err != nil {
		return nil, err
	}
	ops, _, err := freeAddress()
	if err != nil {
		return nil, err
	}
	b := &broker{server: server{addr: addr, profile: "http://" + ops}, ops: "http://" + ops}
	args := append([]string{"serve", "--listen=" + addr, "--ops-listen=" + ops, store, "--drain-timeout=0s"}, strings.Fields(o.settings())...)
	cmd := exec.Command(o.binary, args...)
	cmd.Env = append(os.Environ(), "PUBSUB_ADMIN_TOKEN="+adminToken)
	if err := b.run(cmd); err != nil {
		return nil, err
	}
	if b.key, err = b.createKey(); err != nil {
		b.stop()
		return nil, fmt.Errorf("%w\n%s", err, b.output.Bytes())
	}
	b.handshakes = func(n int, topic func(int) string) ([][]step, error) {
		return b.subscribe(transport, o.tokens, n, topic)
	}
	b.publisher = func(topic string, size int) (*publisher, error) {
		return postPublisher(addr, "/events?topic="+topic, adminToken, size)
	}
	return b, nil
}

func (b *broker) createKey() (pubsub.Key, error) {
	req, err := http.NewRequest(http.MethodPost, "http://"+b.addr+"/admin/keys", nil)
	if err != nil {
		return pubsub.Key{}, err
	}
	req.Header.Set("Fastly-Key", adminToken)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return pubsub.Key{}, err
	}
	defer resp.Body.Close()
	var key pubsub.Key
	if err := json.NewDecoder(resp.Body).Decode(&key); err != nil || key.Value == "" {
		return key, fmt.Errorf("no key was created: %s, %w", resp.Status, err)
	}
	return key, nil
}

// subscribe returns handshakes of n subscribers, each with a token of its own, or
// all with the admin token.
func (b *broker) subscribe(transport, tokens string, n int, topic func(int) string) ([][]step, error) {
	expires := time.Now().Add(time.Hour)
	var failed error
	hs := handshakes(n, func(i int) []step {
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
		return sseSubscribe("/events?topic="+topic(i), bearer)
	})
	return hs, failed
}

// metric returns the sum of the samples of a metric whose labels contain all of
// with.
func (b *broker) metric(name string, with ...string) (sum float64, err error) {
	body, err := get(context.Background(), b.ops+"/metrics")
	if err != nil {
		return 0, err
	}
lines:
	for s := bufio.NewScanner(bytes.NewReader(body)); s.Scan(); {
		sample, value, ok := strings.Cut(s.Text(), " ")
		if base, _, _ := strings.Cut(sample, "{"); !ok || base != name {
			continue
		}
		for _, w := range with {
			if !strings.Contains(sample, w) {
				continue lines
			}
		}
		v, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return 0, err
		}
		sum += v
	}
	return sum, nil
}

// inUse returns the bytes of the heap and of stacks that are in use, after the
// last garbage collection.
func (b *broker) inUse() (sum float64, err error) {
	for _, name := range []string{"go_memstats_heap_inuse_bytes", "go_memstats_stack_inuse_bytes"} {
		v, err := b.metric(name)
		if err != nil {
			return 0, err
		}
		sum += v
	}
	return sum, nil
}
