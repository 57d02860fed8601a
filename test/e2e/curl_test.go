//go:build e2e

package e2e

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"fmt"
	"net/url"
	"os/exec"
	"strings"
	"testing"
)

// curl runs curl to its end and returns its output.
func curl(t *testing.T, args ...string) string {
	t.Helper()
	return run(t, "", "curl", append([]string{"-sS", "--max-time", "30"}, args...)...)
}

// post publishes with curl and returns the response body, the status, and the
// version of a retained message. payload may be any bytes.
func (b *broker) post(t *testing.T, token string, payload []byte, query ...string) (body, status, version string) {
	t.Helper()
	const format = "\n%{http_code} %header{pubsub-version}"
	out := run(t, string(payload), "curl", "-sS", "--max-time", "30", "-k",
		"--data-binary", "@-", "-H", "Authorization: Bearer "+token,
		"-w", strings.ReplaceAll(format, "\n", `\n`), b.events(query...))
	i := strings.LastIndexByte(out, '\n')
	status, version, _ = strings.Cut(out[i+1:], " ")
	return out[:i], status, version
}

// mustPost publishes with curl and fails the test unless it is accepted.
func (b *broker) mustPost(t *testing.T, token string, payload []byte, query ...string) (version string) {
	t.Helper()
	body, status, version := b.post(t, token, payload, query...)
	if status != "200" || body != "Published\n" {
		t.Fatalf("POST /events?%s answered %s %q", encodeQuery(query), status, body)
	}
	return version
}

// encodeQuery encodes name, value, name, value as a query.
func encodeQuery(pairs []string) string {
	q := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		q.Add(pairs[i], pairs[i+1])
	}
	return q.Encode()
}

// event is a server-sent event in curl's output.
type event struct {
	kind  string
	id    string
	hasID bool
	data  string
}

// payload returns the content of a message event.
func (e event) payload(t *testing.T) []byte {
	t.Helper()
	if e.kind == "message" {
		return []byte(e.data)
	}
	if e.kind != "message-base64" {
		t.Fatalf("not a message event: %+v", e)
	}
	b, err := base64.StdEncoding.DecodeString(e.data)
	if err != nil {
		t.Fatalf("%+v: %v", e, err)
	}
	return b
}

// curlStream is a curl that reads an event stream.
type curlStream struct {
	process *process
	events  chan event // closed when curl has ended
	retry   string     // the last retry field; read it after events is closed
}

// openCurl starts a curl that reads the URL. args are further arguments for curl.
func openCurl(t *testing.T, url string, args ...string) *curlStream {
	t.Helper()
	args = append([]string{"-sS", "-N", "-k"}, append(args, url)...)
	s := &curlStream{
		process: start(t, "curl", false, exec.Command("curl", args...)),
		events:  make(chan event, 1024),
	}
	go s.read()
	return s
}

// read splits curl's output into events. It only knows lines that end in LF: a real EventSource
// checks the details of the format.
func (s *curlStream) read() {
	defer s.process.wait()
	defer close(s.events)
	var e event
	var lines []string
	r := bufio.NewReader(s.process.stdout)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		value = strings.TrimPrefix(value, " ")
		switch name {
		case "event":
			e.kind = value
		case "id":
			e.id, e.hasID = value, true
		case "retry":
			s.retry = value
		case "data":
			lines = append(lines, value)
		case "":
			if e.kind != "" {
				e.data = strings.Join(lines, "\n")
				s.events <- e
			}
			e, lines = event{}, nil
		}
	}
}

// next returns the next event that is not a keep-alive.
func (s *curlStream) next(t *testing.T) event {
	t.Helper()
	return awaitEvent(t, "an event of curl's stream", s.events, func(e event) bool { return e.kind != "keep-alive" })
}

// curlClient subscribes and publishes by HTTP alone. It resumes like a script around curl: with the
// last id that it has read.
type curlClient struct {
	broker *broker
	token  string
	topics []string
	stream *curlStream
	lastID string
}

func newCurlClient(t *testing.T, b *broker, token string) client {
	return &curlClient{broker: b, token: token}
}

func (c *curlClient) subscribe(t *testing.T, topics ...string) {
	t.Helper()
	c.topics = topics
	c.open(t)
}

func (c *curlClient) open(t *testing.T) {
	t.Helper()
	query := []string{"durable", "true"}
	for _, topic := range c.topics {
		query = append(query, "topic", topic)
	}
	args := []string{"-H", "Authorization: Bearer " + c.token}
	if c.lastID != "" {
		args = append(args, "-H", "Last-Event-ID: "+c.lastID)
	}
	c.stream = openCurl(t, c.broker.events(query...), args...)
	if e := c.stream.next(t); e.kind != "stream-open" || e.data != "" {
		t.Fatalf("the first event is %+v, not an empty stream-open", e)
	}
}

func (c *curlClient) publish(t *testing.T, topic string, payload []byte, retain bool) {
	t.Helper()
	version := c.broker.mustPost(t, c.token, payload, "topic", topic, "retain", fmt.Sprint(retain))
	if (version != "") != retain {
		t.Fatalf("with retain=%v the response's Pubsub-Version is %q", retain, version)
	}
}

func (c *curlClient) next(t *testing.T) message {
	t.Helper()
	e := c.stream.next(t)
	m := message{payload: bytes.Clone(e.payload(t)), retained: e.hasID}
	if e.hasID {
		c.lastID = e.id
	}
	return m
}

func (c *curlClient) resume(t *testing.T) {
	t.Helper()
	for range c.stream.events { // to the end that the crash made
	}
	c.open(t)
}
