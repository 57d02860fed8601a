package server

import (
	"context"
	"io"
	"net"
	"net/http"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pubsub"
)

// A client that reads nothing is closed even while the kernel's buffers have room, so that no
// Write blocks.
func TestStalledReaderWithRoomInKernelIsClosed(t *testing.T) {
	const timeout = time.Second
	var closed sync.WaitGroup
	closed.Add(1)
	n := newNode(t, func(o *Options) {
		o.WriteTimeout = timeout
		o.Events.Disconnected = func(string) { closed.Done() }
	})
	d := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 4096) })
	}}
	c, err := d.DialContext(t.Context(), "tcp", n.h1.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, "GET /events?topic=t HTTP/1.1\r\nHost: x\r\nFastly-Key: "+adminToken+"\r\n\r\n")
	if _, err := io.ReadFull(c, make([]byte, 64)); err != nil { // the stream has started
		t.Fatal(err)
	}
	m := pubsub.Message{Topic: "t", Data: make([]byte, 200<<10), Published: time.Now()}
	if _, err := pubsub.Publish(context.Background(), n.backplane, m)(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	closed.Wait()
	if took := time.Since(began); took > 4*timeout {
		t.Errorf("closed after %v, the timeout is %v", took, timeout)
	}
	if res, err := http.Get(n.h1.URL + "/"); err != nil || res.StatusCode != 200 {
		t.Errorf("response %+v, %v", res, err)
	} else {
		res.Body.Close()
	}
}
