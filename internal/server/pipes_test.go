package server

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"pubsub/internal/testkit"
	"testing"
	"testing/synctest"
	"time"
)

// pipeServer is an http.Server whose connections sockets counts.
type pipeServer struct {
	*http.Server
	*testkit.PipeListener
	sockets *Sockets
}

func serveOverPipes(t *testing.T, o SocketOptions, h http.HandlerFunc) *pipeServer {
	s := NewSockets(o)
	p := &pipeServer{&http.Server{Handler: h, ConnState: s.ConnState, ConnContext: s.ConnContext}, testkit.NewPipeListener(), s}
	go p.Serve(s.Listener(p.PipeListener, nil))
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
