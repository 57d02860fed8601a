package server

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"pubsub/internal/testkit"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A body without a Content-Length is published if it is not longer than a message may be.
func TestPublishWithoutLength(t *testing.T) {
	n := newNode(t, func(o *Options) { o.MaxMessageSize = 10 })
	for _, srv := range []*httptest.Server{n.h1, n.h2} {
		for _, c := range []struct {
			body   string
			status int
			want   string
		}{
			{"", 200, "Published\n"},
			{"0123456789", 200, "Published\n"},
			{"0123456789a", 400, "Message size exceeds 10 bytes maximum\n"},
			{strings.Repeat("x", 1<<20), 400, "Message size exceeds 10 bytes maximum\n"},
		} {
			t.Run(fmt.Sprint(protocolOf(srv), " ", len(c.body)), func(t *testing.T) {
				body := io.MultiReader(strings.NewReader(c.body)) // hides its length
				req, err := http.NewRequestWithContext(t.Context(), "POST", srv.URL+"/events?topic=t", body)
				if err != nil {
					t.Fatal(err)
				}
				req.Header.Set("Fastly-Key", adminToken)
				res, err := srv.Client().Do(req)
				if err != nil {
					t.Fatal(err)
				}
				defer res.Body.Close()
				got, err := io.ReadAll(res.Body)
				if err != nil || res.StatusCode != c.status || string(got) != c.want {
					t.Fatalf("got %d %q %v", res.StatusCode, got, err)
				}
				if c.status == 200 {
					if p := <-n.delivered; string(p.Data) != c.body {
						t.Errorf("delivered %q", p.Data)
					}
				}
			})
		}
	}
}

// wire is a TCP connection to a node.
type wire struct {
	net.Conn
	r *bufio.Reader
}

func (n *node) dial(t *testing.T) *wire {
	t.Helper()
	c, err := net.Dial("tcp", n.h1.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return &wire{c, bufio.NewReader(c)}
}

func (c *wire) send(t *testing.T, s string) {
	t.Helper()
	if _, err := io.WriteString(c, s); err != nil {
		t.Fatal(err)
	}
}

// response reads the next response. closes reports whether the server closes the connection
// after it.
func (c *wire) response(t *testing.T) (status int, body string, closes bool) {
	t.Helper()
	res, err := http.ReadResponse(c.r, nil)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(b), res.Close
}

func TestPublishDecidesByContentLength(t *testing.T) {
	n := newNode(t, nil)
	auth := "Fastly-Key: " + adminToken + "\r\n"
	for _, length := range []string{"32513", "4611686018427387904"} {
		c := n.dial(t)
		// The answer does not wait for the body.
		c.send(t, "POST /events?topic=t HTTP/1.1\r\nHost: x\r\n"+auth+"Content-Length: "+length+"\r\n\r\n")
		if status, body, closes := c.response(t); status != 400 || body != "Message size exceeds 32512 bytes maximum\n" || !closes {
			t.Errorf("%s: got %d %q, closes %v", length, status, body, closes)
		}
		if _, err := c.r.ReadByte(); err != io.EOF {
			t.Errorf("%s: after the response: %v", length, err)
		}
	}
}

// A client that sends Expect: 100-continue is refused before it sends the body.
func TestPublishExpectContinue(t *testing.T) {
	n := newNode(t, nil)
	c := n.dial(t)
	c.send(t, "POST /events?topic=t HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
	if status, body, _ := c.response(t); status != 400 || body != "Missing 'Authorization' header\n" {
		t.Errorf("refused: got %d %q", status, body)
	}
	c = n.dial(t)
	c.send(t, "POST /events?topic=t HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nFastly-Key: "+adminToken+"\r\nContent-Length: 5\r\n\r\n")
	if line, err := c.r.ReadString('\n'); err != nil || line != "HTTP/1.1 100 Continue\r\n" {
		t.Fatalf("got %q %v", line, err)
	}
	if line, err := c.r.ReadString('\n'); err != nil || line != "\r\n" {
		t.Fatalf("got %q %v", line, err)
	}
	c.send(t, "hello")
	if status, body, closes := c.response(t); status != 200 || body != "Published\n" || closes {
		t.Errorf("accepted: got %d %q, closes %v", status, body, closes)
	}
}

// An endless body costs no more than a message, on any path.
func TestEndlessBody(t *testing.T) {
	n := newNode(t, nil)
	for _, c := range []struct {
		head   string
		status int
		want   string
	}{
		{"POST /events?topic=t HTTP/1.1\r\nFastly-Key: " + adminToken, 400, "Message size exceeds 32512 bytes maximum\n"},
		{"POST /events HTTP/1.1", 400, "Missing 'topic' param\n"},
		{"POST /nowhere HTTP/1.1", 404, notFound},
		{"POST /admin/keys HTTP/1.1", 401, notAdmin},
	} {
		t.Run(c.head[:20], func(t *testing.T) {
			conn := n.dial(t)
			conn.send(t, c.head+"\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
			var sending sync.WaitGroup
			sending.Go(func() {
				chunk := "1000\r\n" + strings.Repeat("x", 0x1000) + "\r\n"
				for {
					if _, err := io.WriteString(conn, chunk); err != nil {
						return // the server has closed
					}
				}
			})
			if status, body, closes := conn.response(t); status != c.status || body != c.want || !closes {
				t.Errorf("got %d %q, closes %v", status, body, closes)
			}
			sending.Wait()
		})
	}
}

// A connection is kept after a message, and after the refusal of a short one.
func TestConnectionIsKept(t *testing.T) {
	n := newNode(t, nil)
	c := n.dial(t)
	auth := "Fastly-Key: " + adminToken + "\r\n"
	for range 2 {
		c.send(t, "POST /events?topic=t HTTP/1.1\r\nHost: x\r\n"+auth+"Content-Length: 2\r\n\r\nhi")
		if status, body, closes := c.response(t); status != 200 || body != "Published\n" || closes {
			t.Fatalf("got %d %q, closes %v", status, body, closes)
		}
		c.send(t, "POST /events?topic=t HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi")
		if status, body, closes := c.response(t); status != 400 || body != "Missing 'Authorization' header\n" || closes {
			t.Fatalf("refused: got %d %q, closes %v", status, body, closes)
		}
	}
}

// If a request has two lengths, or one that HTTP/1.0 does not define, a proxy may disagree on
// where the next request begins, so the connection is closed after the response. net/http
// does not distinguish such a request from a chunked one, so every chunked body has the same
// effect.
func TestAmbiguousFramingClosesConnection(t *testing.T) {
	n := newNode(t, nil)
	auth := "Fastly-Key: " + adminToken + "\r\n"
	const chunked = "Transfer-Encoding: chunked\r\n"
	next := "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
	var wg sync.WaitGroup // in parallel, because the server waits for the rest of a body
	defer wg.Wait()
	for _, c := range []struct {
		line, fields string
		status       int
	}{
		{"POST /events?topic=t HTTP/1.1", auth, 200},
		{"POST /events?topic=t HTTP/1.1", "", 400},
		{"POST /events?topic=t HTTP/1.0", auth, 200},
		{"POST /events?topic=t HTTP/1.0", auth + "Connection: keep-alive\r\n", 200},
		{"GET /events?topic=t HTTP/1.1", "", 200},
		{"GET / HTTP/1.1", "", 200},
		{"HEAD / HTTP/1.1", "", 200},
		{"OPTIONS /events HTTP/1.1", "", 200},
		{"GET /nowhere HTTP/1.1", "", 404},
		{"GET /nowhere HTTP/1.0", "Connection: keep-alive\r\n", 404},
		{"GET /mqtt HTTP/1.1", "", 426},
		{"GET /mqtt HTTP/1.1", "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 12\r\n", 426},
		{"POST /admin/keys HTTP/1.1", auth, 200},
		{"GET /admin/keys HTTP/1.1", "", 401},
	} {
		for _, length := range []string{"", "Content-Length: 7\r\n", "Content-Length: 65536\r\n"} {
			if length == "Content-Length: 65536\r\n" && strings.HasSuffix(c.line, "1.0") {
				continue // HTTP/1.0 would wait for as many bytes
			}
			conn := n.dial(t)
			request := c.line + "\r\nHost: x\r\n" + c.fields + length + chunked + "\r\n2\r\nhi\r\n0\r\n\r\n" + next
			status := regexp.MustCompile(fmt.Sprintf("^HTTP/1.[01] %d ", c.status))
			wg.Go(func() {
				io.WriteString(conn, request)
				got, err := io.ReadAll(conn.r)
				if err != nil || !status.Match(got) || bytes.Count(got, []byte("HTTP/1.")) != 1 ||
					!bytes.Contains(got, []byte("\r\nConnection: close\r\n")) {
					t.Errorf("%q is answered with %q, %v", request, got, err)
				}
			})
		}
	}
}

// An incomplete body is not published.
func TestTruncatedBody(t *testing.T) {
	n := newNode(t, nil)
	for _, s := range []string{
		"Content-Length: 10\r\n\r\nhi",
		"Transfer-Encoding: chunked\r\n\r\n5\r\nhi",
		"Transfer-Encoding: chunked\r\n\r\nzz\r\nhi",
	} {
		c := n.dial(t)
		c.send(t, "POST /events?topic=t HTTP/1.1\r\nHost: x\r\nFastly-Key: "+adminToken+"\r\n"+s)
		if err := c.Conn.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if status, body, _ := c.response(t); status != 400 || body != "Cannot read the request body\n" {
			t.Errorf("%q: got %d %q", s, status, body)
		}
		if _, err := c.r.ReadByte(); err != io.EOF {
			t.Errorf("%q: after the response: %v", s, err)
		}
	}
	select {
	case p := <-n.delivered:
		t.Errorf("delivered %q", p.Data)
	default:
	}
}

// The server waits at most bodyTimeout for a body, on any path.
func TestSlowBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Options{Backplane: &faulty{}, AdminToken: adminToken, HTTPPublish: true, SSE: true})
		l := testkit.NewPipeListener()
		srv := &http.Server{Handler: s.Handler()}
		var serving sync.WaitGroup
		serving.Go(func() { srv.Serve(l) })
		for _, x := range []struct {
			request, want string
			status        int
		}{
			{"POST /events?topic=t HTTP/1.1\r\nFastly-Key: " + adminToken, "Request Timeout\n", 408},
			{"POST /events?topic=t HTTP/1.1", "Missing 'Authorization' header\n", 400},
			{"GET /nowhere HTTP/1.1", notFound, 404},
			{"GET /events HTTP/1.1", `data: {"condition":"bad-request","text":"Missing 'topic' parameter"}` + "\n\n", 200},
		} {
			ours, theirs := net.Pipe()
			l.Connect(theirs)
			c := &wire{ours, bufio.NewReader(ours)}
			began := time.Now()
			c.send(t, x.request+"\r\nHost: x\r\nContent-Length: 5\r\n\r\nhe")
			if status, body, closes := c.response(t); status != x.status || !strings.HasSuffix(body, x.want) || !closes {
				t.Errorf("%s: got %d %q, closes %v", x.request, status, body, closes)
			}
			if took := time.Since(began); took > bodyTimeout {
				t.Errorf("%s: took %v", x.request, took)
			}
			ours.Close()
		}
		srv.Close()
		serving.Wait()
	})
}
