//go:build e2e

package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"slices"
	"sync"
	"testing"
	"time"
)

// script is a running node.js or chromium.js. lines.js documents the conversation with it.
type script struct {
	process *process
	events  chan scriptEvent // closed when the script has ended

	mu      sync.Mutex
	lastID  int                       // guarded by mu
	waiting map[int]chan scriptAnswer // guarded by mu
}

// scriptEvent is an event of a JavaScript client.
type scriptEvent struct {
	Kind       string
	Topic      string
	Payload    []byte
	Retain     bool
	QoS        int
	ID         string
	Source     int
	Reason     int
	Text       string
	URL        string
	Protocol   string
	Properties struct {
		ContentType            string
		ResponseTopic          string
		CorrelationData        []byte
		UserProperties         map[string]any
		MessageExpiryInterval  *int
		PayloadFormatIndicator any
		SubscriptionIdentifier any
	}
}

type scriptAnswer struct {
	result json.RawMessage
	err    string
}

func startScript(t *testing.T, file string, args ...string) *script {
	t.Helper()
	s := &script{
		process: start(t, file, false, exec.Command("node", append([]string{file}, args...)...)),
		events:  make(chan scriptEvent, 4096),
		waiting: make(map[int]chan scriptAnswer),
	}
	go s.read()
	t.Cleanup(func() { // runs before the process is killed
		s.process.stdin.Close() // the script and its browser end with the input
		select {
		case <-s.process.exited:
		case <-time.After(patience):
			t.Errorf("%s has not ended %v after its input", file, patience)
		}
	})
	return s
}

func (s *script) read() {
	defer s.process.wait()
	defer close(s.events)
	lines := bufio.NewScanner(s.process.stdout)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var line struct {
			ID     int
			Result json.RawMessage
			Error  string
			Event  *scriptEvent
		}
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			fmt.Fprintf(s.process.err, "not a line of the conversation (%v): %s\n", err, lines.Bytes())
			return
		}
		if line.Event != nil {
			s.events <- *line.Event
			continue
		}
		s.mu.Lock()
		s.waiting[line.ID] <- scriptAnswer{line.Result, line.Error}
		delete(s.waiting, line.ID)
		s.mu.Unlock()
	}
}

// try makes the script do something, and returns the error in its answer.
func (s *script) try(t *testing.T, name string, with, result any) (failure string) {
	t.Helper()
	answer := make(chan scriptAnswer, 1)
	s.mu.Lock()
	s.lastID++
	id := s.lastID
	s.waiting[id] = answer
	s.mu.Unlock()
	line, err := json.Marshal(map[string]any{"id": id, "do": name, "with": with})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.process.stdin.Write(append(line, '\n')); err != nil {
		t.Fatalf("%s: %v", s.process.name, err)
	}
	select {
	case a := <-answer:
		if a.err != "" {
			return a.err
		}
		if result != nil {
			if err := json.Unmarshal(a.result, result); err != nil {
				t.Fatalf("%s: %s answered %s: %v", s.process.name, name, a.result, err)
			}
		}
	case <-s.process.exited:
		t.Fatalf("%s ended during %s", s.process.name, name)
	case <-time.After(patience):
		t.Fatalf("%s: %s has not been answered within %v", s.process.name, name, patience)
	}
	return ""
}

// do makes the script do something that must succeed.
func (s *script) do(t *testing.T, name string, with, result any) {
	t.Helper()
	if failure := s.try(t, name, with, result); failure != "" {
		t.Fatalf("%s: %s: %s", s.process.name, name, failure)
	}
}

// await returns the next event of one of the kinds, and skips others.
func (s *script) await(t *testing.T, kinds ...string) scriptEvent {
	t.Helper()
	what := fmt.Sprintf("%q from %s", kinds, s.process.name)
	return awaitEvent(t, what, s.events, func(e scriptEvent) bool { return slices.Contains(kinds, e.Kind) })
}

// openPage starts a Chromium that shows page.html from another origin than the broker's.
func openPage(t *testing.T) *script {
	t.Helper()
	s, _ := openPageOrigin(t)
	return s
}

// openPageOrigin is openPage, and also returns the origin of the page.
func openPageOrigin(t *testing.T) (s *script, origin string) {
	t.Helper()
	return openPageAt(t, "/page.html")
}

// openPageAt is openPageOrigin for another page.
func openPageAt(t *testing.T, path string) (s *script, origin string) {
	t.Helper()
	pages := httptest.NewServer(http.FileServer(http.Dir(".")))
	t.Cleanup(pages.Close)
	s = startScript(t, "chromium.js")
	s.do(t, "open", map[string]any{"url": pages.URL + path}, nil)
	return s, pages.URL
}

// mqttJSClient is MQTT.js, in Node or in a page.
type mqttJSClient struct{ script *script }

func newNodeClient(t *testing.T, b *broker, token string) client {
	return connectMQTTJS(t, startScript(t, "node.js"), b, token)
}

func newPageMQTTClient(t *testing.T, b *broker, token string) client {
	return connectMQTTJS(t, openPage(t), b, token)
}

func connectMQTTJS(t *testing.T, s *script, b *broker, token string) client {
	t.Helper()
	s.do(t, "connect", map[string]any{"url": b.mqttURL, "options": mqttOptions(token, nil)}, nil)
	s.await(t, "connect")
	return &mqttJSClient{s}
}

// mqttOptions returns options for MQTT.js. It sends a password only together with a user name,
// which the broker ignores.
func mqttOptions(token string, more map[string]any) map[string]any {
	o := map[string]any{
		"clientId": fmt.Sprintf("e2e-%016x", rand.Uint64()),
		"username": "token",
		"password": token,
	}
	for k, v := range more {
		o[k] = v
	}
	return o
}

func (c *mqttJSClient) subscribe(t *testing.T, topics ...string) {
	t.Helper()
	var codes []int
	c.script.do(t, "subscribe", map[string]any{"topics": topics}, &codes)
	for _, code := range codes {
		if code != 0 {
			t.Fatalf("SUBACK for %q has the reason codes %v", topics, codes)
		}
	}
	if len(codes) != len(topics) {
		t.Fatalf("SUBACK for %q has the reason codes %v", topics, codes)
	}
}

func (c *mqttJSClient) publish(t *testing.T, topic string, payload []byte, retain bool) {
	t.Helper()
	c.script.do(t, "publish", map[string]any{
		"topic": topic, "payload": payload, "options": map[string]any{"retain": retain},
	}, nil)
}

func (c *mqttJSClient) next(t *testing.T) message {
	t.Helper()
	e := c.script.await(t, "message")
	return message{topic: e.Topic, payload: bytes.Clone(e.Payload), retained: e.Retain}
}

func (c *mqttJSClient) resume(t *testing.T) {
	t.Helper()
	c.script.await(t, "connect")
}

// pageClient is a browser without a library: EventSource and fetch.
type pageClient struct {
	script *script
	broker *broker
	token  string
	lastID string // of the last event that had a new one
}

func newPageClient(t *testing.T, b *broker, token string) client {
	return &pageClient{script: openPage(t), broker: b, token: token}
}

func (c *pageClient) subscribe(t *testing.T, topics ...string) {
	t.Helper()
	query := []string{"durable", "true", "auth", c.token}
	for _, topic := range topics {
		query = append(query, "topic", topic)
	}
	c.script.do(t, "listen", map[string]any{"url": c.broker.events(query...)}, nil)
	c.script.await(t, "stream-open")
}

func (c *pageClient) publish(t *testing.T, topic string, payload []byte, retain bool) {
	t.Helper()
	var response struct {
		Status  int
		Body    string
		Version string
	}
	c.script.do(t, "post", map[string]any{
		"url":     c.broker.events("topic", topic, "retain", fmt.Sprint(retain)),
		"token":   c.token,
		"payload": payload,
	}, &response)
	if response.Status != 200 || response.Body != "Published\n" {
		t.Fatalf("the response to fetch is %+v", response)
	}
	if (response.Version != "") != retain {
		t.Fatalf("with retain=%v a page of another origin sees Pubsub-Version %q", retain, response.Version)
	}
}

func (c *pageClient) next(t *testing.T) message {
	t.Helper()
	e := c.script.await(t, "message", "message-base64", "stream-error", "messages-dropped")
	if e.Kind != "message" && e.Kind != "message-base64" {
		t.Fatalf("EventSource got %s: %s", e.Kind, e.Payload)
	}
	m := message{payload: bytes.Clone(e.Payload), retained: e.ID != c.lastID}
	c.lastID = e.ID
	return m
}

func (c *pageClient) resume(t *testing.T) {
	t.Helper()
	c.script.await(t, "stream-open")
}
