package scenario

import (
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// memoryOfConnections measures connections without a stream or session, of which there may be
// max-sockets.
func memoryOfConnections(t *testing.T) {
	n, plain := startTLS(t), start(t)
	for _, n := range []*node{n.node, plain} {
		n.http.CloseIdleConnections()
		n.sockets(t, 0)
	}
	send := func(c net.Conn, s string) {
		deadline(c)
		if _, err := io.WriteString(c, s); err != nil {
			t.Fatal(err)
		}
	}
	fields := func(n, size int) string { // the first lines of a head
		var b strings.Builder
		b.WriteString("GET / HTTP/1.1\r\n")
		for i := range n {
			fmt.Fprintf(&b, "f%d:", i)
			b.WriteString(strings.Repeat("x", size))
			b.WriteString("\r\n")
		}
		return b.String()
	}
	for _, c := range []struct {
		name string
		max  int64
		open func() net.Conn
	}{
		{"silent", 20 << 10, func() net.Conn { return dial(t, plain.addr) }},
		{"kept alive", 20 << 10, func() net.Conn {
			c := dial(t, plain.addr)
			answered(t, c)
			return c
		}},
		{"61 KB of 100 fields, and no end", 100 << 10, func() net.Conn {
			c := dial(t, plain.addr)
			send(c, fields(100, 610))
			return c
		}},
		{"61 KB of short fields", 32 << 10, func() net.Conn {
			c := dial(t, plain.addr)
			io.WriteString(c, fields(6000, 3))
			io.Copy(io.Discard, c) // until the refused connection is closed
			return c
		}},
		{"kept alive over TLS", 40 << 10, func() net.Conn {
			c := n.dial()
			answered(t, c)
			return c
		}},
		{"HTTP/2", 60 << 10, func() net.Conn {
			c := tls.Client(dial(t, n.addr), n.clientFor("h2"))
			send(c, string(http2Preface))
			return c
		}},
		{"HTTP/2, as many fields as fit, and no end", 160 << 10, func() net.Conn {
			c := tls.Client(dial(t, n.addr), n.clientFor("h2"))
			send(c, string(http2Preface))
			// One field, which the server's dynamic table then has, repeated at a byte each.
			block := append([]byte{0x82, 0x84, 0x87, 0x01, 0x01, 'b', 0x40, 1, 'x', 0}, strings.Repeat("\xbe", 1900)...)
			frame := []byte{0, 0, 0, 1, 1, 0, 0, 0, 1}
			binary.BigEndian.PutUint32(frame[:4], uint32(len(block))<<8|1)
			send(c, string(frame)+string(block))
			return c
		}},
	} {
		got := costOf(t, 100, func() func() {
			c := c.open()
			return func() { c.Close() }
		})
		t.Logf("%s: %d bytes", c.name, got)
		if got > c.max {
			t.Errorf("%s: %d bytes, more than %d", c.name, got, c.max)
		}
		plain.sockets(t, 0)
	}
}

// costOf opens count things and returns how many bytes of heap and stacks each of them takes. open
// returns a function that closes the thing.
func costOf(t *testing.T, count int, open func() func()) int64 {
	t.Helper()
	before := memoryInUse()
	var ends []func()
	for range count {
		ends = append(ends, open())
	}
	var after int64
	for last := int64(0); ; time.Sleep(20 * time.Millisecond) { // until it is stable
		after = memoryInUse()
		if d := after - last; d < int64(count)*100 && d > -int64(count)*100 {
			break
		}
		last = after
	}
	for _, end := range ends {
		end()
	}
	return (after - before) / int64(count)
}
