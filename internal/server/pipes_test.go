package server

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

// pipes is a listener of connections in memory.
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

// pipeServer is an http.Server whose connections sockets counts.
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
