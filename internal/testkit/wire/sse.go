package wire

import (
	"io"
	"net"
	"testing"
)

// SSE is a Stream of a test.
type SSE struct {
	T testing.TB
	Stream
}

// Get sends a GET over a connection of its own and reads the head of the response.
// Header lines are sent as they are.
func Get(t testing.TB, conn net.Conn, target string, header ...string) *SSE {
	t.Helper()
	s, err := Request(conn, target, header...)
	if err != nil {
		t.Fatal(err)
	}
	return &SSE{t, *s}
}

// Response reads the head of the response to a request that was sent before.
func Response(t testing.TB, conn net.Conn) *SSE {
	t.Helper()
	s, err := readHead(conn)
	if err != nil {
		t.Fatal(err)
	}
	return &SSE{t, *s}
}

// Read returns the next event, or an error. Another goroutine may call it.
func (c *SSE) Read() (Event, error) {
	deadline(c.Conn)
	return c.Stream.Read()
}

// Next returns the next event.
func (c *SSE) Next() Event {
	c.T.Helper()
	e, err := c.Read()
	if err != nil {
		c.T.Fatalf("next event: %v, after %.300q", err, e.Raw)
	}
	return e
}

// NextMessage returns the next event that is not a keep-alive.
func (c *SSE) NextMessage() Event {
	c.T.Helper()
	for {
		if e := c.Next(); e.Raw != "event: keep-alive\ndata: \n" {
			return e
		}
	}
}

// Expect checks that raw is the next event.
func (c *SSE) Expect(raw string) {
	c.T.Helper()
	if e := c.Next(); e.Raw != raw {
		c.T.Fatalf("the next event is\n%q, not\n%q", e.Raw, raw)
	}
}

// ExpectOpen checks that the next event is the stream-open.
func (c *SSE) ExpectOpen() {
	c.T.Helper()
	if e := c.Next(); e.Raw != "event: stream-open\ndata: \n" {
		c.T.Fatalf("the first event is %q", e.Raw)
	}
}

// ExpectError checks that the next event is the stream-error of condition and text.
func (c *SSE) ExpectError(condition, text string) {
	c.T.Helper()
	if e := c.Next(); !IsError(e.Raw, condition, text) {
		c.T.Fatalf("the next event is\n%q, not %s: %s", e.Raw, condition, text)
	}
}

// ExpectDrain checks that the next event sends the client to another server.
func (c *SSE) ExpectDrain() {
	c.T.Helper()
	if e := c.Next(); !IsDrain(e) {
		c.T.Fatalf("not a keep-alive with a retry of 1 to 10 s: %q", e.Raw)
	}
}

// Rest returns everything until the server ends the stream. It checks that the body
// is complete and that the connection ends with it.
func (c *SSE) Rest() string {
	c.T.Helper()
	deadline(c.Conn)
	s := ReadAll(c.T, c.Body)
	if c.chunked != nil {
		if end := ReadAll(c.T, c.chunked); end != "\r\n" { // httputil's reader leaves it
			c.T.Fatalf("after the last chunk: %q", end)
		}
	}
	return s
}

// ExpectEnd checks that the server ends the stream here.
func (c *SSE) ExpectEnd() {
	c.T.Helper()
	if s := c.Rest(); s != "" {
		c.T.Fatalf("the stream continues with %.300q", s)
	}
}

// ReadAll reads until the other side ends the stream, and fails the test if it is cut.
func ReadAll(t testing.TB, r io.Reader) string {
	t.Helper()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatalf("reading to the end: %v, after %.300q", err, b)
	}
	return string(b)
}
