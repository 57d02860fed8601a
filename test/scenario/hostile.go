package scenario

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"pubsub/internal/config"
	"pubsub/internal/mqtt"
	"pubsub/internal/testkit/wire"
)

// Random bytes, TLS and HTTP/2 without TLS are refused at both listeners.
func TestHostileBytes(t *testing.T) {
	s := besiege(t)
	listeners := map[string]string{"the public listener": s.addr, "the ops listener": s.ops}
	for where, addr := range listeners {
		s.attack("random bytes at "+where, 8<<20, func(t *testing.T) {
			each(300, func(i int) {
				r := newRand(uint64(i))
				b := randomBytes(r, 1+r.IntN(8<<10))
				switch i % 3 {
				case 1:
					b = append([]byte("GET /"), b...)
				case 2:
					b = append([]byte("GET /events?topic=t HTTP/1.1\r\n"), b...)
				}
				got := exchange(t, addr, b, closeWrite)
				if got != "" && status(got)[0] != '4' {
					t.Errorf("connection %d: %.200q", i, got)
				}
			})
		})
		s.attack("TLS at "+where, 4<<20, func(t *testing.T) {
			each(100, func(i int) {
				c, err := net.Dial("tcp", addr)
				if err != nil {
					t.Error(err)
					return
				}
				defer c.Close()
				deadline(c)
				err = tls.Client(c, &tls.Config{InsecureSkipVerify: true}).Handshake()
				if bad := (tls.RecordHeaderError{}); !errors.As(err, &bad) || string(bad.RecordHeader[:]) != "HTTP/" {
					t.Errorf("response to the ClientHello: %v", err)
				}
			})
		})
		s.attack("HTTP/2 without TLS at "+where, 4<<20, func(t *testing.T) {
			each(50, func(int) {
				got := exchange(t, addr, []byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"), closeWrite)
				if got == "" || status(got)[0] != '4' && status(got)[0] != '5' {
					t.Errorf("response to the HTTP/2 preface: %q", got)
				}
			})
		})
	}
}

// Clients that never complete a request are closed after the handshake timeout.
func TestHostileSlowRequests(t *testing.T) {
	s := besiege(t, func(c *config.Config) { c.HandshakeTimeout = 300 * time.Millisecond })
	drip := func(b string) func(net.Conn) {
		return func(c net.Conn) {
			for {
				for i := range len(b) {
					if _, err := c.Write([]byte(b[i : i+1])); err != nil {
						return
					}
					time.Sleep(10 * time.Millisecond) // the attack is slow
				}
			}
		}
	}
	for where, addr := range map[string]string{"the public listener": s.addr, "the ops listener": s.ops} {
		s.attack("headers that are never complete at "+where, 8<<20, func(t *testing.T) {
			var wg sync.WaitGroup
			for i := range 120 {
				wg.Go(func() {
					var got string
					switch i % 4 {
					case 0:
						got = exchange(t, addr, nil)
					case 1:
						got = exchange(t, addr, []byte("GET /events?topic=t HTTP/1.1\r\nHost: broker\r\nX: "))
					case 2:
						got = exchange(t, addr, []byte("GET / HTTP/1.1\r\n"), drip("X: y\r\n"))
					case 3: // after a complete request
						got = exchange(t, addr, []byte(request("HEAD", "/healthz")+"GET / HTTP/1.1\r\nX: "))
						_, got, _ = strings.Cut(got, "\r\n\r\n")
					}
					// After a timeout net/http sends nothing, except 400 if a line was cut
					// short.
					if got != "" && status(got) != "400 Bad Request" {
						t.Errorf("case %d: response %.200q", i%4, got)
					}
				})
			}
			wg.Wait()
		})
	}
	s.attack("streams whose clients close their side at once", 8<<20, func(t *testing.T) {
		each(100, func(int) {
			got := exchange(t, s.addr, []byte(request("GET", "/events?topic=t", asAdminLine)), closeWrite)
			if got != "" && status(got) != "200 OK" {
				t.Errorf("response %.200q", got)
			}
		})
	})
}

// Clients that leave at any moment, with a reset or not, leave nothing behind.
func TestHostileReconnects(t *testing.T) {
	s := besiege(t)
	upgrade := request("GET", "/mqtt", wire.UpgradeHeader()...)
	subscribe := mqtt.Subscribe{PacketID: 1, Filters: []mqtt.Filter{{Topic: "t"}, {Topic: "u"}}}
	scripts := []string{
		request("GET", "/events?topic=t&topic=u&durable=true", asAdminLine),
		upgrade + string(wire.AppendFrame(nil, wire.FIN|wire.OpBinary, subscribe.Append(connectWith(adminToken)))),
		request("POST", "/events?topic=t&retain=true", asAdminLine, "Content-Length: 500") + strings.Repeat("x", 500),
		request("GET", "/admin/topics", asAdminLine),
	}
	s.attack("2,000 connections", 8<<20, func(t *testing.T) {
		each(2000, func(i int) {
			r := newRand(uint64(i))
			c, err := net.Dial("tcp", s.addr)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			script := scripts[r.IntN(len(scripts))]
			if r.IntN(2) == 0 {
				script = script[:r.IntN(len(script))]
			}
			// A write fails if the server has ended the connection, as it may.
			io.WriteString(c, script)
			switch r.IntN(3) {
			case 0:
				c.(*net.TCPConn).SetLinger(0)
			case 1:
				closeWrite(c)
			}
			// Read for a moment only.
			c.SetReadDeadline(time.Now().Add(time.Duration(r.IntN(10_000)) * time.Microsecond))
			io.CopyN(io.Discard, c, r.Int64N(600))
		})
	})
}

// Request heads that are too long or have too many topics are refused, and random queries do no
// harm.
func TestHostileRequestHeads(t *testing.T) {
	s := besiege(t)
	head := func(target string, header ...string) []byte {
		return []byte(request("GET", target, append(header, lastRequest)...))
	}
	const tooLarge = "431 Request Header Fields Too Large"
	// The requests themselves take 6 MB.
	s.attack("headers of 1 MB", 12<<20, func(t *testing.T) {
		filler := strings.Repeat("x", 1<<20)
		for name, b := range map[string][]byte{
			"one field":   head("/events?topic=t", "X: "+filler),
			"many fields": head("/events?topic=t", strings.Repeat("X: y\r\n", 1<<20/6)+"X: y"),
			"the query":   head("/events?topic=" + filler),
			"a token":     head("/events?topic=t&auth=" + filler),
			"the method":  append([]byte(filler), head("/")...),
			// 10,000 topics do not fit into 64 KiB.
			"10,000 topics": head("/events?topic=a" + strings.Repeat("&topic=a", 9999)),
		} {
			for range 3 {
				if got := exchange(t, s.addr, b); got != "" && status(got) != tooLarge {
					t.Errorf("%s: response %.200q", name, got)
				}
			}
		}
	})
	// Request headers may have 64 KiB in all.
	s.attack("headers of the maximum size, and a byte longer", 4<<20, func(t *testing.T) {
		for over, want := range []string{"200 OK", tooLarge} {
			empty := len(head("/", "X: "))
			b := head("/", "X: "+strings.Repeat("x", 64<<10-empty+over))
			if got := status(exchange(t, s.addr, b)); got != want {
				t.Errorf("%d bytes: %q", len(b), got)
			}
		}
	})
	s.attack("thousands of topics", 8<<20, func(t *testing.T) {
		var q strings.Builder
		for i := range 5000 {
			fmt.Fprintf(&q, "&topic=%04d", i)
		}
		each(30, func(int) {
			got := content(exchange(t, s.addr, head("/events?"+q.String()[1:], asAdminLine)))
			if wire.WithoutRetry(got) != refusal("bad-request", "Too many topics") {
				t.Errorf("different topics: %.200q", got)
			}
		})
		// A topic that is repeated counts once.
		c := wire.Get(t, dial(t, s.addr), "/events?topic=t"+strings.Repeat("&topic=t", 7000), asAdminLine)
		c.ExpectOpen()
		s.publish("t", "once")
		c.Expect("event: message\ndata: once\n")
	})
	// 16 at a time, each of which takes five times 60 KB in the client and as much in the server.
	s.attack("random queries", 16<<20, func(t *testing.T) {
		each(30, func(i int) {
			r := newRand(uint64(i))
			b := make([]byte, 60_000)
			for k := range b {
				const alphabet = "&&==%%++;?/.,:@!$'()*~|^`{}[]<>\"\\09afAFzZ\x80\xff\xc3"
				b[k] = alphabet[r.IntN(len(alphabet))]
			}
			for _, tt := range []struct{ request, want string }{
				{request("GET", "/events?"+string(b), asAdminLine, lastRequest), refusal("bad-request", "Missing 'topic' parameter")},
				{request("POST", "/events?"+string(b), asAdminLine, lastRequest), "Missing 'topic' param\n"},
				{request("POST", "/events?topic=t&"+string(b), asAdminLine, lastRequest), "Published\n"},
			} {
				if got := content(exchange(t, s.addr, []byte(tt.request))); wire.WithoutRetry(got) != tt.want {
					t.Errorf("query %d: response to %.40q is %.200q", i, tt.request, got)
				}
			}
		})
	})
}

// An id of ten long topics is 31 KB long. A client that resumes with it repeats the topics in its
// query as well.
func TestLongestLastEventID(t *testing.T) {
	s := besiege(t)
	s.attack("an id of ten topics of 1,024 bytes", 8<<20, func(t *testing.T) {
		var pairs []string
		for i := range 10 {
			topic := strings.Repeat("%", 1023) + strconv.Itoa(i)
			s.publish(topic, "first", "retain=true")
			pairs = append(pairs, "topic", topic)
		}
		target := "/events" + wire.Query(append(pairs, "durable", "true")...)
		c := wire.Get(t, dial(t, s.addr), target, asAdminLine)
		c.ExpectOpen()
		var id string
		for range 10 {
			id = c.Next().ID
		}
		if len(id) < 30_000 {
			t.Fatalf("an id of %d bytes", len(id))
		}
		s.publish(pairs[19], "second", "retain=true")
		again := wire.Get(t, dial(t, s.addr), target, asAdminLine, "Last-Event-ID: "+id)
		again.ExpectOpen()
		if e := again.Next(); e.Data != "second" || len(e.ID) < 30_000 {
			t.Errorf("resumed with %q, an id of %d bytes", e.Data, len(e.ID))
		}
	})
}

// Every refused token gets "Invalid token", however many there are.
func TestHostileTokens(t *testing.T) {
	s := besiege(t)
	long := s.key.token([]string{"t"}, []string{"t"}, claims{"x": strings.Repeat("x", 6700)})
	tokens := map[string]func(r *rand.Rand) string{
		"unknown kids": func(r *rand.Rand) string {
			return signingKey{fmt.Sprintf("%x", randomBytes(r, 1+r.IntN(1000))), s.key.Value}.token([]string{"t"}, []string{"t"}, nil)
		},
		"bad signatures": func(r *rand.Rand) string {
			return signingKey{s.key.ID, fmt.Sprint(r.Uint64())}.token([]string{"t"}, []string{"t"}, nil)
		},
		"9 KB": func(*rand.Rand) string { return long },
	}
	if len(long) < 9000 {
		t.Fatalf("the long token has %d bytes", len(long))
	}
	for name, token := range tokens {
		s.attack(name, 8<<20, func(t *testing.T) {
			refuse := func(r *rand.Rand, count int) {
				c, err := net.Dial("tcp", s.addr)
				if err != nil {
					t.Error(err)
					return
				}
				defer c.Close()
				in := bufio.NewReader(c)
				for i := range count {
					deadline(c)
					method, target, header := "GET", "/events?topic=t&auth="+token(r), "X: y"
					want := refusal("forbidden", "Invalid token")
					switch i % 3 {
					case 1:
						target, header = "/events?topic=t", "Authorization: Bearer "+token(r)
					case 2:
						method, target, header = "POST", "/events?topic=t", "Authorization: Bearer "+token(r)
						want = "Invalid token\n"
					}
					io.WriteString(c, request(method, target, header))
					resp, err := http.ReadResponse(in, nil)
					if err != nil {
						t.Errorf("%s: %v", method, err)
						return
					}
					body, err := io.ReadAll(resp.Body)
					if wire.WithoutRetry(string(body)) != want || err != nil {
						t.Errorf("%s: response %s %.200q, %v", method, resp.Status, body, err)
						return
					}
				}
			}
			var wg sync.WaitGroup
			for i := range 4 {
				wg.Go(func() { refuse(newRand(uint64(i)), 300) })
			}
			r := newRand(4)
			for range 50 {
				m := wire.Upgrade(t, dial(t, s.addr))
				m.WriteFrame(wire.FIN|wire.OpBinary, connectWith(token(r)))
				m.ExpectEnd(mqtt.NotAuthorized, 1000)
				m.Conn.Close()
			}
			wg.Wait()
		})
	}
}

// Bodies that are too long, never complete or malformed cost no more than max-message-size each.
func TestHostileBodies(t *testing.T) {
	s := besiege(t)
	const tooLong = "Message size exceeds 32512 bytes maximum\n"
	post := func(header ...string) []byte {
		return []byte(request("POST", "/events?topic=t", append(header, asAdminLine)...))
	}
	s.attack("chunked bodies without end", 8<<20, func(t *testing.T) {
		each(40, func(i int) {
			chunk := fmt.Appendf(nil, "1000\r\n%s\r\n", strings.Repeat("x", 4096))
			if i%2 == 0 {
				chunk = []byte(strings.Repeat("1\r\nx\r\n", 500))
			}
			got := exchange(t, s.addr, post("Transfer-Encoding: chunked"), func(c net.Conn) {
				for {
					if _, err := c.Write(chunk); err != nil {
						return
					}
				}
			})
			// A client that keeps sending gets a reset, which may lose the response.
			if got != "" && (status(got) != "400 Bad Request" || content(got) != tooLong) {
				t.Errorf("response %.300q", got)
			}
		})
	})
	s.attack("chunk sizes and extensions that are too large", 8<<20, func(t *testing.T) {
		each(20, func(i int) {
			b := "ffffffffffffffff\r\n"
			if i%2 == 0 {
				b = "1;" + strings.Repeat("x", 64<<10) + "\r\nx\r\n0\r\n\r\n"
			}
			if got := exchange(t, s.addr, append(post("Transfer-Encoding: chunked"), b...), closeWrite); got != "" && status(got) != "400 Bad Request" {
				t.Errorf("response %.300q", got)
			}
		})
	})
	s.attack("1 GB announced", 8<<20, func(t *testing.T) {
		each(40, func(i int) {
			var more []string
			if i%2 == 0 {
				more = []string{"Expect: 100-continue"} // "never more than the limit is read"
			}
			got := exchange(t, s.addr, post(append(more, "Content-Length: 1073741824")...))
			if status(got) != "400 Bad Request" || content(got) != tooLong {
				t.Errorf("response %.300q", got)
			}
		})
	})
	// A body costs its announced length, if that is allowed: 200 bodies of 32 KB, and 16 KB for
	// each connection with its request.
	s.attack("slow bodies", 16<<20, func(t *testing.T) {
		var cs []net.Conn
		for range 200 {
			c := dial(t, s.addr)
			c.Write(append(post("Content-Length: 32512", lastRequest), "x"...))
			cs = append(cs, c)
		}
		for range 20 {
			s.beats(1)
			for _, c := range cs {
				c.Write([]byte("x"))
			}
		}
		// A body that arrives in the end is published.
		stream := wire.Get(t, dial(t, s.addr), "/events?topic=t", asAdminLine)
		stream.ExpectOpen()
		io.WriteString(cs[0], strings.Repeat("x", 32512-21))
		if got := wire.ReadAll(t, cs[0]); content(got) != "Published\n" {
			t.Errorf("response to the slow body: %q", got)
		}
		stream.Expect("event: message\ndata: " + strings.Repeat("x", 32512) + "\n")
	})
}
