package scenario

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"pubsub/internal/config"
	"pubsub/internal/testkit/wire"
)

// chunks splits a chunked body (RFC 9112 section 7.1). The size lines must have neither extensions
// nor leading zeros, which some parsers refuse, and the last chunk must not have a trailer.
// complete reports whether there is a last chunk.
func chunks(t testing.TB, body string) (data []string, complete bool) {
	t.Helper()
	sizeLine := regexp.MustCompile(`^(?:0|[1-9a-f][0-9a-f]*)\r\n`)
	for body != "" {
		line := sizeLine.FindString(body)
		if line == "" {
			t.Fatalf("not a size line, after %d chunks: %.100q", len(data), body)
		}
		size, err := strconv.ParseUint(strings.TrimSuffix(line, "\r\n"), 16, 31)
		if err != nil {
			t.Fatal(err)
		}
		rest := body[len(line):]
		if size == 0 {
			if rest != "\r\n" {
				t.Fatalf("after the last chunk: %.100q", rest)
			}
			return data, true
		}
		if len(rest) < int(size)+2 {
			return data, false
		}
		if rest[size:size+2] != "\r\n" {
			t.Fatalf("a chunk of %d bytes ends in %.100q", size, rest[size:])
		}
		data = append(data, rest[:size])
		body = rest[size+2:]
	}
	return data, false
}

// Over HTTP/1.1 a stream is chunked, each write is made of complete chunks, and a stream that the
// server ends has a last chunk, after which the connection closes. HTTP/1.0 clients get an unframed
// body and Connection: close. The events are the same for both.
func TestStreamFraming(t *testing.T) {
	n := startTLS(t)
	overTLS := func(t *testing.T) net.Conn {
		c := tls.Client(dial(t, n.addr), &tls.Config{InsecureSkipVerify: true})
		t.Cleanup(func() { c.Close() })
		deadline(c)
		return c
	}
	plain := start(t)
	for _, holder := range []struct {
		name string
		n    *node
		dial func(t *testing.T) net.Conn
	}{
		{"plain", plain, func(t *testing.T) net.Conn { return dial(t, plain.addr) }},
		{"TLS", n.node, overTLS},
	} {
		for _, pairs := range [][]string{
			{"topic", "t"},
			{"topic", "t", "envelope", "true"},
			{"topic", "t", "durable", "true"},
			{"topic", "t", "durable", "true", "envelope", "true"},
			{"topic", "t", "topic", "u", "topic", "z,z", "durable", "true"},
			{"topic", "t", "topic", "u", "durable", "true", "envelope", "true"},
		} {
			t.Run(holder.name+strings.Join(pairs, " "), func(t *testing.T) {
				n := holder.n
				k := n.newKey()
				target := "/events" + wire.Query(append(pairs, "auth", k.token([]string{"t", "u", "z,z"}, nil, nil))...)
				// In a cluster, a stream that opens after the publish may still receive the
				// message, unless the node has already delivered it.
				earlier := wire.Get(t, holder.dial(t), "/events"+wire.Query("topic", "t", "auth", k.token([]string{"t"}, nil, nil)))
				earlier.ExpectOpen()
				n.publish("t", "retained", "retain=true")
				for earlier.NextMessage().Data != "retained" {
				}
				var heads, bodies [2]string
				readPast := func(i int, c net.Conn, mark string) {
					for b := make([]byte, 4096); !strings.Contains(bodies[i], mark); {
						m, err := c.Read(b)
						if err != nil {
							t.Fatal(err)
						}
						bodies[i] += string(b[:m])
					}
				}
				streams := [2]net.Conn{holder.dial(t), holder.dial(t)}
				for i, c := range streams {
					fmt.Fprintf(c, "GET %s HTTP/1.%d\r\nHost: broker\r\n\r\n", target, i)
					readPast(i, c, "event: stream-open\n")
				}
				n.publish("t", "")
				n.publish("t", "a\nb\r\n\xc5\x82", "retain=true")
				n.publish("t", "\xff")
				n.publish("t", strings.Repeat("x", 16<<10-4)+"\n") // larger than one write
				n.publish("t", strings.Repeat("\n", 32_000), "retain=true")
				n.publish("t", "the last", "retain=true")
				for i, c := range streams {
					readPast(i, c, "the last")
				}
				n.deleteKey(k)
				for i, c := range streams {
					rest, err := io.ReadAll(c)
					if err != nil {
						t.Fatal(err)
					}
					heads[i], bodies[i], _ = strings.Cut(bodies[i]+string(rest), "\r\n\r\n")
					if status(heads[i]) != "200 OK" || !strings.Contains(heads[i], "\r\nConnection: close\r\n") {
						t.Errorf("HTTP/1.%d: %q", i, heads[i])
					}
					if got := strings.Contains(heads[i], "\r\nTransfer-Encoding: chunked"); got != (i == 1) {
						t.Errorf("HTTP/1.%d: Transfer-Encoding: %v", i, got)
					}
				}
				events, complete := chunks(t, bodies[1])
				if !complete {
					t.Errorf("no last chunk in %.200q", bodies[1])
				}
				for _, e := range events {
					if !strings.HasPrefix(e, "event: ") || strings.Index(e, "\n\n") != len(e)-2 {
						t.Errorf("not one event: %.200q", e)
					}
				}
				got, want := wire.WithoutRetry(strings.Join(events, "")), wire.WithoutRetry(bodies[0])
				if got != want || !strings.Contains(got, "token-revoked") {
					t.Errorf("over HTTP/1.1:\n%.1000q\nover HTTP/1.0:\n%.1000q", got, want)
				}
			})
		}
	}
}

// A refusal is framed like any other response. Over HTTP/1.0 it ends with the connection, and over
// HTTP/1.1 the connection can be used again.
func TestRefusalFraming(t *testing.T) {
	n := start(t)
	body := regexp.MustCompile(`^event: stream-error\nretry: \d+\ndata: \{"condition":"bad-request","text":"Missing 'topic' parameter"\}\n\n$`)
	c := dial(t, n.addr)
	io.WriteString(c, "GET /events HTTP/1.0\r\n\r\n")
	old := wire.ReadAll(t, c)
	if status(old) != "200 OK" || strings.Contains(old, "Transfer-Encoding") || !body.MatchString(content(old)) {
		t.Errorf("HTTP/1.0: %q", old)
	}
	c = dial(t, n.addr)
	r := bufio.NewReader(c)
	for range 2 {
		io.WriteString(c, request("GET", "/events"))
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		if b := wire.ReadAll(t, resp.Body); !body.MatchString(b) || resp.Close {
			t.Errorf("HTTP/1.1: %q, the last response: %v", b, resp.Close)
		}
	}
}

// A stream that the broker closes because its client is stalled does not look complete: it has no
// last chunk.
func TestCutStreamHasNoLastChunk(t *testing.T) {
	n := start(t, func(c *config.Config) { c.WriteTimeout = time.Second })
	c := n.adminEvents("topic", "t")
	closed := func() bool {
		n.publish("t", strings.Repeat("x", 32<<10-256))
		return n.metric("pubsub_connections{") == 0
	}
	if !within(closed) {
		t.Fatal("the stream is still open")
	}
	deadline(c.Conn)
	if got, err := io.ReadAll(c.Body); err == nil {
		t.Errorf("the stream looks complete, after %d bytes", len(got))
	}
}
