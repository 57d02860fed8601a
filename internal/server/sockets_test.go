package server

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"pubsub/internal/conn"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// pipes is a listener whose connections are in memory.
type pipes struct {
	conns  chan net.Conn
	errs   chan error // for Accept to return
	closed chan struct{}
}

func newPipes() *pipes {
	return &pipes{conns: make(chan net.Conn), errs: make(chan error, 10), closed: make(chan struct{})}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case err := <-p.errs:
		return nil, &net.OpError{Op: "accept", Net: "tcp", Err: err}
	default:
	}
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { close(p.closed); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

func (p *pipes) dial() net.Conn {
	client, server := net.Pipe()
	p.conns <- server
	return client
}

// pipeServer is an http.Server whose connections s counts.
type pipeServer struct {
	*http.Server
	*pipes
	sockets *Sockets
}

func serveOverPipes(t *testing.T, o SocketOptions, h http.HandlerFunc) *pipeServer {
	s := NewSockets(o)
	p := &pipeServer{&http.Server{Handler: h, ConnState: s.ConnState, ConnContext: s.ConnContext}, newPipes(), s}
	go p.Serve(s.Listener(p.pipes, nil))
	t.Cleanup(func() { p.Server.Close(); synctest.Wait() })
	return p
}

const getRoot = "GET / HTTP/1.1\r\nHost: broker\r\n\r\n"

// ask sends a request over c and reads the answer.
func ask(t *testing.T, c net.Conn) {
	t.Helper()
	go io.WriteString(c, getRoot)
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	io.Copy(io.Discard, res.Body)
	synctest.Wait()
}

// isClosed reports whether the other side has closed c.
func isClosed(c net.Conn) bool {
	c.SetReadDeadline(time.Now())
	_, err := c.Read(make([]byte, 1))
	return errors.Is(err, io.EOF)
}

// The connection that is closed for a new one is always the one that has idled longest,
// while connections come, send requests, and go at random.
func TestLongestIdleIsClosed(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	synctest.Test(t, func(t *testing.T) {
		const limit = 20
		s := serveOverPipes(t, SocketOptions{Max: limit}, func(http.ResponseWriter, *http.Request) {})
		var idle []net.Conn // in order of how long
		var closed uint64
		for range 1000 {
			switch {
			case len(idle) == 0 || rng.IntN(2) == 0:
				c := s.dial()
				synctest.Wait()
				if len(idle) == limit {
					if !isClosed(idle[0]) {
						t.Fatal("the one that has idled longest is open")
					}
					idle = idle[1:]
					closed++
				}
				idle = append(idle, c)
			case rng.IntN(3) > 0:
				i := rng.IntN(len(idle))
				c := idle[i]
				ask(t, c)
				idle = append(slices.Delete(idle, i, i+1), c)
			default:
				i := rng.IntN(len(idle))
				idle[i].Close()
				synctest.Wait()
				idle = slices.Delete(idle, i, i+1)
			}
			if got := s.sockets.Stats(); got.Open != len(idle) || got.Closed != closed {
				t.Fatalf("%d idle and %d closed: %+v", len(idle), closed, got)
			}
		}
		for _, c := range idle {
			if isClosed(c) {
				t.Error("one is closed that should not be")
			}
			c.Close()
		}
		synctest.Wait()
		if s.sockets.idle != (socketList{}) {
			t.Error("the list of those that idle is not empty")
		}
	})
}

// After a transient error of accept(2), the listener reports it, waits and tries again; a
// lack of descriptors closes the connection that has idled longest. Any other error ends
// the listener.
func TestAcceptErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []error
		p := newPipes()
		s := NewSockets(SocketOptions{Events: SocketEvents{AcceptFailed: func(err error) { told = append(told, err) }}})
		ln := s.Listener(p, nil)
		idle, side := net.Pipe()
		go func() { p.conns <- side }()
		if _, err := ln.Accept(); err != nil {
			t.Fatal(err)
		}
		for _, err := range []error{syscall.ECONNABORTED, syscall.ENOBUFS, syscall.EMFILE, syscall.EMFILE} {
			p.errs <- err
		}
		begun := time.Now()
		go p.dial()
		c, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begun); took != (5+10+20+40)*time.Millisecond {
			t.Errorf("accepted after %v", took)
		}
		if len(told) != 4 || !errors.Is(told[3], syscall.EMFILE) {
			t.Errorf("told of %v", told)
		}
		if !isClosed(idle) {
			t.Error("no descriptor was freed")
		}
		c.Close()
		p.errs <- syscall.EINVAL
		if _, err := ln.Accept(); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("a listener that is none: %v", err)
		}
		p.errs <- syscall.EMFILE
		go func() { time.Sleep(time.Millisecond); ln.Close() }()
		begun = time.Now()
		if _, err := ln.Accept(); !errors.Is(err, net.ErrClosed) || time.Since(begun) != time.Millisecond {
			t.Errorf("closed while it waits: %v after %v", err, time.Since(begun))
		}
	})
}

// If all connections are busy, Accept waits, without spinning, until one ends or the
// listener is closed.
func TestAcceptWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limited := 0
		p := newPipes()
		s := NewSockets(SocketOptions{Max: 1, Events: SocketEvents{Limited: func(limit string) {
			if limit == "max-sockets" {
				limited++
			}
		}}})
		ln := s.Listener(p, nil)
		s.Parked(nil) // a stream
		var wg sync.WaitGroup
		wg.Go(func() {
			c, err := ln.Accept()
			if err != nil {
				t.Error(err)
				return
			}
			s.ConnState(c, http.StateActive)
		})
		time.Sleep(time.Hour)
		client, server := net.Pipe()
		select {
		case p.conns <- server:
			t.Fatal("accepted")
		default:
		}
		s.Unparked()
		p.conns <- server
		wg.Wait()
		defer client.Close()
		wg.Go(func() {
			if _, err := ln.Accept(); !errors.Is(err, net.ErrClosed) {
				t.Error(err)
			}
		})
		synctest.Wait()
		ln.Close()
		wg.Wait()
		if st := s.Stats(); st.Waits != 2 || limited != 2 || st.Open != 1 {
			t.Errorf("%+v, %d", st, limited)
		}
	})
}

// A server shuts down at once even if a client has connected and sent nothing, or half
// the head of a request, be it the first or not. A request in progress is still answered.
// A connection that arrives after that is closed at once.
func TestShutdownDoesNotWaitForNewcomers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const work = 3 * time.Second
		s := serveOverPipes(t, SocketOptions{}, func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(work)
			io.WriteString(w, "answer")
		})
		silent, half, second, busy := s.dial(), s.dial(), s.dial(), s.dial()
		go io.WriteString(half, "GET / HTTP/1.1\r\nHost: bro")
		go func() {
			io.WriteString(second, "OPTIONS * HTTP/1.1\r\nHost: broker\r\n\r\n")
			io.WriteString(second, "GET / HTTP/1.1\r\nHost: bro")
		}()
		if res, err := http.ReadResponse(bufio.NewReader(second), nil); err != nil || res.StatusCode != 200 {
			t.Fatal(res, err)
		}
		go io.WriteString(busy, "GET / HTTP/1.1\r\nHost: broker\r\nConnection: close\r\n\r\n")
		answered := make(chan string)
		go func() {
			b, _ := io.ReadAll(busy)
			answered <- string(b[max(0, len(b)-6):])
		}()
		synctest.Wait()

		begun := time.Now()
		s.sockets.Drain()
		for _, c := range []net.Conn{silent, half, s.dial()} {
			if _, err := c.Read(make([]byte, 1)); err != io.EOF || time.Since(begun) != 0 {
				t.Errorf("one that has sent nothing, or half a head: %v, after %v", err, time.Since(begun))
			}
		}
		go func() {
			if _, err := second.Read(make([]byte, 1)); err != io.EOF || time.Since(begun) != 0 {
				t.Errorf("one that has sent half of its second head: %v, after %v", err, time.Since(begun))
			}
		}()
		go func() {
			if got := <-answered; got != "answer" {
				t.Errorf("the request that was under way: %q", got)
			}
			busy.Close()
		}()
		if err := s.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		if took := time.Since(begun); took < work || took >= 5*time.Second {
			t.Errorf("shut down after %v", took)
		}
	})
}

// The fields of a head are counted however it is cut into pieces.
func TestHeadScanner(t *testing.T) {
	fields := strings.Repeat("a: b\r\n", maxFields)
	for _, c := range []struct {
		name, head string
		ok         bool
	}{
		{"as many as there may be", "GET / HTTP/1.1\r\n" + fields + "\r\n", true},
		{"one more", "GET / HTTP/1.1\r\n" + fields + "c: d\r\n", false},
		{"lines that end in LF", "GET / HTTP/1.1\n" + strings.ReplaceAll(fields, "\r", "") + "\n", true},
		{"one more line that ends in LF", "GET / HTTP/1.1\n" + strings.ReplaceAll(fields, "\r", "") + "c: d\n", false},
		{"empty lines first", "\r\n\n\r\nGET / HTTP/1.1\r\n" + fields + "c: d\r\n", false},
		{"folded lines", "GET / HTTP/1.1\r\n" + strings.Repeat("a:\r\n b\r\n", 51), false},
		{"lines of CR", "GET / HTTP/1.1\r\n" + strings.Repeat("\r\r\n", 101), false},
		{"a body of many lines", "GET / HTTP/1.1\r\na: b\r\n\r\n" + strings.Repeat("\r\nx", 200), true},
	} {
		for size := range 40 {
			var h headScanner
			ok := true
			for rest := []byte(c.head); len(rest) > 0 && ok; {
				n := len(rest)
				if size > 0 {
					n = min(size, n)
				}
				ok = h.scan(rest[:n])
				rest = rest[n:]
			}
			if ok != c.ok || c.ok && !h.ended {
				t.Errorf("%s, in pieces of %d: %v, ended: %v", c.name, size, ok, h.ended)
			}
		}
	}
}

// A panic of a handler is reported with its stack, and the response is aborted.
func TestHandlerPanics(t *testing.T) {
	var told []string
	s := New(Options{Backplane: &faulty{}, Events: Events{Panicked: func(value any, stack []byte) {
		told = append(told, fmt.Sprint(value))
		if !strings.Contains(string(stack), "TestHandlerPanics") {
			t.Errorf("the stack is\n%s", stack)
		}
	}}})
	for _, value := range []any{"oh", errors.New("no"), http.ErrAbortHandler} {
		h := s.reportPanics(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(value) }))
		func() {
			defer func() {
				if v := recover(); v != http.ErrAbortHandler {
					t.Errorf("net/http is told %v", v)
				}
			}()
			h.ServeHTTP(nil, nil)
		}()
	}
	if !slices.Equal(told, []string{"oh", "no"}) {
		t.Errorf("reported: %q", told)
	}
}

// A body of many lines is no head, also if the head before it came with the request
// before that.
func TestBodyOfPipelinedRequestIsNoHead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := serveOverPipes(t, SocketOptions{}, func(w http.ResponseWriter, r *http.Request) {
			b, err := io.ReadAll(r.Body)
			fmt.Fprintln(w, r.Method, len(b), err)
		})
		c := p.dial()
		defer c.Close()
		body := strings.Repeat("line\n", 2*maxFields)
		r := bufio.NewReader(c)
		go fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\nPOST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n", len(body))
		for _, want := range []string{"GET 0 <nil>\n", fmt.Sprintf("POST %d <nil>\n", len(body))} {
			resp, err := http.ReadResponse(r, nil)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(resp.Body); string(got) != want || err != nil {
				t.Errorf("%d %q, %v, want %q", resp.StatusCode, got, err, want)
			}
			if body != "" {
				synctest.Wait() // until the body is waited for
				go io.WriteString(c, body)
				body = ""
			}
		}
	})
}

// closeHook is a connection whose Close calls a function.
type closeHook struct {
	net.Conn
	do func()
}

func (c *closeHook) Close() error {
	if c.do != nil {
		c.do()
	}
	return nil
}

// A connection that is closed while another one is closed for it is not counted.
func TestClosedMeanwhileIsNotCounted(t *testing.T) {
	s := NewSockets(SocketOptions{})
	s.setMaxPerIP(1)
	a := netip.MustParseAddr("192.0.2.1")
	l := &socketListener{sockets: s, closed: make(chan struct{})}
	oldest := &socket{Conn: &closeHook{}, sockets: s, fresh: true}
	k := &socket{Conn: &closeHook{}, sockets: s, fresh: true}
	s.add(l, oldest)
	s.count(oldest, a)
	s.add(l, k)
	oldest.Conn.(*closeHook).do = func() { k.Close() }
	s.count(k, a)
	if len(s.addresses) != 0 {
		t.Errorf("%d connections of a closed address are counted", s.addresses[conn.NetworkOf(a)].n)
	}
}

// To close a TLS connection does not wait for a peer that reads nothing.
func TestCloseOfTLSDoesNotWait(t *testing.T) {
	helper := httptest.NewUnstartedServer(nil) // for its certificate
	helper.StartTLS()
	certificates := helper.TLS.Certificates
	helper.Close()
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		defer theirs.Close()
		k := &socket{Conn: ours, sockets: NewSockets(SocketOptions{WriteTimeout: time.Minute})}
		tlsConn := tls.Server(k, &tls.Config{Certificates: certificates})
		// Without session tickets, the client's handshake is over when the server's is.
		client := tls.Client(theirs, &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12})
		go client.Handshake()
		if err := tlsConn.Handshake(); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		conn.NetTransport{Conn: &httpConn{Conn: tlsConn, socket: k, tls: tlsConn}}.Close()
		if took := time.Since(began); took != 0 {
			t.Errorf("Close has waited %v", took)
		}
	})
}

// A connection counts once while it moves to its parked descriptor.
func TestParkedCountsOnce(t *testing.T) {
	s := NewSockets(SocketOptions{})
	k := &socket{Conn: &closeHook{}, sockets: s, fresh: true}
	s.add(&socketListener{sockets: s, closed: make(chan struct{})}, k)
	for _, step := range []struct {
		name string
		do   func()
		open int
	}{
		{"parked", func() { s.Parked(&httpConn{Conn: k, socket: k}) }, 1},
		{"closed", func() { k.Close() }, 1},
		{"its descriptor closed", s.Unparked, 0},
	} {
		if step.do(); s.Stats().Open != step.open {
			t.Errorf("%s: %d open, want %d", step.name, s.Stats().Open, step.open)
		}
	}
}
