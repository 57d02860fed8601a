package scenario

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http/httputil"
	"net/textproto"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// sseClient is a stream of events, read from the bytes of a connection.
type sseClient struct {
	t      testing.TB
	conn   net.Conn
	r      *bufio.Reader // the body, without framing
	status string
	header textproto.MIMEHeader
	// chunked is what r reads a chunked body from, or nil.
	chunked *bufio.Reader
}

// event is one block of lines. All fields of it are there, comments too.
type event struct {
	name, data, id, retry string
	hasID                 bool
	raw                   string // the block's bytes, without the blank line
}

// query makes a query of names and values in turn.
func query(pairs ...string) string {
	var b strings.Builder
	for i := 0; i < len(pairs); i += 2 {
		b.WriteByte("?&"[min(i, 1)])
		b.WriteString(pairs[i] + "=" + url.QueryEscape(pairs[i+1]))
	}
	return b.String()
}

// get sends a GET over a connection of its own and reads the head of the
// response. Header lines come as they are.
func get(t testing.TB, conn net.Conn, target string, header ...string) *sseClient {
	t.Helper()
	req := "GET " + target + " HTTP/1.1\r\nHost: broker\r\n"
	for _, h := range header {
		req += h + "\r\n"
	}
	if _, err := io.WriteString(conn, req+"\r\n"); err != nil {
		t.Fatal(err)
	}
	return response(t, conn)
}

// response reads the head of a response.
func response(t testing.TB, conn net.Conn) *sseClient {
	t.Helper()
	c := &sseClient{t: t, conn: conn, r: bufio.NewReader(conn)}
	tp := textproto.NewReader(c.r)
	var err error
	if c.status, err = tp.ReadLine(); err != nil {
		t.Fatalf("head of a response: %v", err)
	}
	if c.header, err = tp.ReadMIMEHeader(); err != nil {
		t.Fatalf("head of a response: %v", err)
	}
	if c.header.Get("Transfer-Encoding") == "chunked" {
		c.chunked = c.r
		c.r = bufio.NewReader(httputil.NewChunkedReader(c.chunked))
	}
	return c
}

// events begins GET /events with the query that pairs make, and reads past
// stream-open.
func (n *node) events(pairs ...string) *sseClient {
	n.t.Helper()
	c := n.getEvents(pairs...)
	c.opened()
	return c
}

func (n *node) getEvents(pairs ...string) *sseClient {
	n.t.Helper()
	return get(n.t, dial(n.t, n.addr), "/events"+query(pairs...))
}

// adminEvents is events with the admin token in a header.
func (n *node) adminEvents(pairs ...string) *sseClient {
	n.t.Helper()
	c := get(n.t, dial(n.t, n.addr), "/events"+query(pairs...), "Fastly-Key: "+adminToken)
	c.opened()
	return c
}

func (c *sseClient) opened() {
	c.t.Helper()
	if e := c.next(); e.raw != "event: stream-open\ndata: \n" {
		c.t.Fatalf("the first event is %q", e.raw)
	}
}

// next returns the next event. Every line ends in LF alone, as the server has it.
func (c *sseClient) next() event {
	c.t.Helper()
	e, err := c.read()
	if err != nil {
		c.t.Fatalf("next event: %v, after %.300q", err, e.raw)
	}
	return e
}

func (c *sseClient) read() (e event, err error) {
	deadline(c.conn)
	var data []string
	for {
		line, err := c.r.ReadBytes('\n')
		if err != nil {
			e.raw += string(line)
			return e, err
		}
		if bytes.IndexByte(line, '\r') >= 0 {
			return e, fmt.Errorf("CR in the line %q", line)
		}
		if len(line) == 1 {
			e.data = strings.Join(data, "\n")
			return e, nil
		}
		e.raw += string(line)
		name, value, _ := strings.Cut(string(line[:len(line)-1]), ":")
		value = strings.TrimPrefix(value, " ")
		switch name {
		case "event":
			e.name = value
		case "data":
			data = append(data, value)
		case "id":
			e.id, e.hasID = value, true
		case "retry":
			e.retry = value
		default:
			return e, fmt.Errorf("unknown field in %q", line)
		}
	}
}

// expect fails the test unless the next event is just this.
func (c *sseClient) expect(raw string) {
	c.t.Helper()
	if e := c.next(); e.raw != raw {
		c.t.Fatalf("the next event is\n%q, not\n%q", e.raw, raw)
	}
}

// waits are the bounds of the retry field of a stream-error, in milliseconds.
var waits = map[string][2]int{
	"bad-request":           {60_000, 180_000},
	"forbidden":             {60_000, 180_000},
	"token-expired":         {1000, 10_000},
	"token-revoked":         {1000, 10_000},
	"too-many-connections":  {5000, 15_000},
	"internal-server-error": {5000, 15_000},
}

// isError reports whether block is the stream-error of condition and text, which is
// as it stands in JSON, with a wait within the bounds.
func isError(block, condition, text string) bool {
	rest, ok := strings.CutPrefix(block, "event: stream-error\nretry: ")
	retry, rest, _ := strings.Cut(rest, "\n")
	return ok && isWait(retry, waits[condition]) && rest == `data: {"condition":"`+condition+`","text":"`+text+`"}`+"\n"
}

func isWait(retry string, bounds [2]int) bool {
	ms, err := strconv.Atoi(retry)
	return err == nil && strconv.Itoa(ms) == retry && bounds[0] <= ms && ms <= bounds[1]
}

var retryField = regexp.MustCompile(`(?m)^retry: \d+\n`)

// withoutWaits returns events without their retry fields, which are random.
func withoutWaits(events string) string { return retryField.ReplaceAllString(events, "") }

// refused fails the test unless the next event is a stream-error.
func (c *sseClient) refused(condition, text string) {
	c.t.Helper()
	if e := c.next(); !isError(e.raw, condition, text) {
		c.t.Fatalf("the next event is\n%q, not %s: %s", e.raw, condition, text)
	}
}

// drained fails the test unless the next event sends the client to another server.
func (c *sseClient) drained() {
	c.t.Helper()
	e := c.next()
	if e.raw != "event: keep-alive\nretry: "+e.retry+"\ndata: \n" || !isWait(e.retry, [2]int{1000, 10_000}) {
		c.t.Fatalf("not a keep-alive with a wait of 1 to 10 s: %q", e.raw)
	}
}

// rest returns what still comes until the server ends the stream. The test fails
// unless the body is whole and the connection ends with it.
func (c *sseClient) rest() string {
	c.t.Helper()
	deadline(c.conn)
	s := readAll(c.t, c.r)
	if c.chunked != nil {
		if end := readAll(c.t, c.chunked); end != "\r\n" { // the reader of chunks leaves it
			c.t.Fatalf("after the last chunk: %q", end)
		}
	}
	return s
}

// ends fails the test unless the stream ends here.
func (c *sseClient) ends() {
	c.t.Helper()
	if s := c.rest(); s != "" {
		c.t.Fatalf("the stream goes on with %.300q", s)
	}
}

// skipHead reads the head of a response that changes protocols.
func skipHead(t testing.TB, conn net.Conn) *bufio.Reader {
	t.Helper()
	r := bufio.NewReader(conn)
	tp := textproto.NewReader(r)
	if line, err := tp.ReadLine(); err != nil || !strings.HasPrefix(line, "HTTP/1.1 101 ") {
		t.Fatalf("%q, %v", line, err)
	}
	if _, err := tp.ReadMIMEHeader(); err != nil {
		t.Fatal(err)
	}
	return r
}
