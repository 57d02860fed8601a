package app

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

// pipes is a listener without a network.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
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

// A server is shut down at once though somebody has connected and said nothing, or
// has sent half the head of a request, be it the first or not; a request that is
// under way is still answered.
func TestShutdownDoesNotWaitForNewcomers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const work = 3 * time.Second
		n := newNewcomers()
		s := &http.Server{ConnState: n.state, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(work)
			io.WriteString(w, "answer")
		})}
		ln := &pipes{make(chan net.Conn), make(chan struct{})}
		go s.Serve(ln)

		silent, half, second, busy := ln.dial(), ln.dial(), ln.dial(), ln.dial()
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
		n.close()
		for _, c := range []net.Conn{silent, half} {
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

// Who comes when all is over is closed at once.
func TestNewcomersAfterTheEnd(t *testing.T) {
	n := newNewcomers()
	n.close()
	client, server := net.Pipe()
	n.state(server, http.StateNew)
	if _, err := client.Read(make([]byte, 1)); err != io.EOF {
		t.Error(err)
	}
	n.state(server, http.StateClosed)
}
