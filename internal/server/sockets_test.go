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
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"pubsub/internal/conn"
	"pubsub/internal/testkit"
)

// The connection that has idled longest is closed for a new one, while connections arrive,
// send requests, and end at random.
func TestLongestIdleIsClosed(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	synctest.Test(t, func(t *testing.T) {
		const limit = 20
		s := serveOverPipes(t, SocketOptions{Max: limit}, func(http.ResponseWriter, *http.Request) {})
		var idle []net.Conn // the longest idle first
		var closed uint64
		for range 1000 {
			switch {
			case len(idle) == 0 || rng.IntN(2) == 0:
				c := s.Dial()
				synctest.Wait()
				if len(idle) == limit {
					if !isClosed(idle[0]) {
						t.Fatal("the connection that has idled longest is open")
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
				t.Error("an idle connection within the bound is closed")
			}
			c.Close()
		}
		synctest.Wait()
		if s.sockets.idle != (socketList{}) {
			t.Error("the list of idle connections is not empty")
		}
	})
}

// After a transient error of accept(2), the listener reports it, waits and tries again; a
// lack of descriptors closes the connection that has idled longest. Any other error ends
// the listener.
func TestAcceptErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var failures []error
		p := testkit.NewPipeListener()
		s := NewSockets(SocketOptions{Events: SocketEvents{AcceptFailed: func(err error) { failures = append(failures, err) }}})
		ln := s.Listener(p, nil)
		idle, side := net.Pipe()
		go p.Connect(side)
		if _, err := ln.Accept(); err != nil {
			t.Fatal(err)
		}
		for _, err := range []error{syscall.ECONNABORTED, syscall.ENOBUFS, syscall.EMFILE, syscall.EMFILE} {
			p.Errs <- err
		}
		began := time.Now()
		go p.Dial()
		c, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took != (5+10+20+40)*time.Millisecond {
			t.Errorf("accepted after %v", took)
		}
		if len(failures) != 4 || !errors.Is(failures[3], syscall.EMFILE) {
			t.Errorf("reported %v", failures)
		}
		if !isClosed(idle) {
			t.Error("no descriptor was freed")
		}
		c.Close()
		p.Errs <- syscall.EINVAL
		if _, err := ln.Accept(); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("invalid listener: %v", err)
		}
		p.Errs <- syscall.EMFILE
		go func() { time.Sleep(time.Millisecond); ln.Close() }()
		began = time.Now()
		if _, err := ln.Accept(); !errors.Is(err, net.ErrClosed) || time.Since(began) != time.Millisecond {
			t.Errorf("closed while it waits: %v after %v", err, time.Since(began))
		}
	})
}

// If all connections are busy, Accept waits, without spinning, until one ends or the
// listener is closed.
func TestAcceptWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limited := 0
		p := testkit.NewPipeListener()
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
		connected := make(chan struct{})
		go func() {
			p.Connect(server)
			close(connected)
		}()
		synctest.Wait()
		select {
		case <-connected:
			t.Fatal("accepted")
		default:
		}
		s.Unparked()
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
			t.Errorf("stats %+v; the limit was reported %d times, want 2", st, limited)
		}
	})
}

// Shutdown does not wait for clients that have sent nothing, or half of the head of their
// first or a later request. A request in progress is answered. New connections are closed.
func TestShutdownDoesNotWaitForNewConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const work = 3 * time.Second
		s := serveOverPipes(t, SocketOptions{}, func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(work)
			io.WriteString(w, "answer")
		})
		silent, half, second, busy := s.Dial(), s.Dial(), s.Dial(), s.Dial()
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

		began := time.Now()
		s.sockets.Drain()
		for _, c := range []net.Conn{silent, half, s.Dial()} {
			if _, err := c.Read(make([]byte, 1)); err != io.EOF || time.Since(began) != 0 {
				t.Errorf("without a request: %v, after %v", err, time.Since(began))
			}
		}
		go func() {
			if _, err := second.Read(make([]byte, 1)); err != io.EOF || time.Since(began) != 0 {
				t.Errorf("with half of a second head: %v, after %v", err, time.Since(began))
			}
		}()
		go func() {
			if got := <-answered; got != "answer" {
				t.Errorf("the request in progress: %q", got)
			}
			busy.Close()
		}()
		if err := s.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took < work || took >= 5*time.Second {
			t.Errorf("shut down after %v", took)
		}
	})
}

// A panic of a handler is reported with its stack, and the response is aborted.
func TestHandlerPanics(t *testing.T) {
	var panics []string
	s := New(Options{Backplane: &faulty{}, Events: Events{Panicked: func(value any, stack []byte) {
		panics = append(panics, fmt.Sprint(value))
		if !strings.Contains(string(stack), "TestHandlerPanics") {
			t.Errorf("the stack is\n%s", stack)
		}
	}}})
	for _, value := range []any{"oh", errors.New("no"), http.ErrAbortHandler} {
		h := s.reportPanics(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(value) }))
		func() {
			defer func() {
				if v := recover(); v != http.ErrAbortHandler {
					t.Errorf("panics with %v, want http.ErrAbortHandler", v)
				}
			}()
			h.ServeHTTP(nil, nil)
		}()
	}
	if !slices.Equal(panics, []string{"oh", "no"}) {
		t.Errorf("reported %q", panics)
	}
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

// A connection that closes while another one is closed for it is not counted.
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

// Closing a TLS connection does not wait for a peer that reads nothing.
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
		// Without session tickets, both handshakes end at the same time.
		client := tls.Client(theirs, &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12})
		go client.Handshake()
		if err := tlsConn.Handshake(); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		conn.NetTransport{Conn: &httpConn{Conn: tlsConn, socket: k, tls: tlsConn}}.Close()
		if took := time.Since(began); took != 0 {
			t.Errorf("Close took %v", took)
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
