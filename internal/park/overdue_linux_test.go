package park

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestUntakenBytesAreKept(t *testing.T) {
	l := newLot(t, Options{WriteTimeout: time.Minute})
	c, client, ev := parked(t, l)
	c.Resume()
	var sent bytes.Buffer
	piece := make([]byte, 10_000)
	for i := 0; !c.Blocked(); i++ {
		for k := range piece {
			piece[k] = byte(i + k)
		}
		sent.Write(piece)
		if n, err := c.Write(piece); n != len(piece) || err != nil {
			t.Fatal(n, err)
		}
		if sent.Len() > 64<<20 {
			t.Fatal("a peer that reads nothing has taken 64 MiB")
		}
	}
	t.Logf("the kernel took %d bytes", sent.Len())
	// Bytes written while it is blocked follow in order.
	sent.WriteString("the end")
	c.Write([]byte("the end"))
	checkSent(t, c, client, ev, sent.Bytes())
}

// checkSent checks that client receives the bytes that were sent over the blocked connection c, and
// that c is no longer blocked then.
func checkSent(t *testing.T, c *Conn, client net.Conn, ev *events, sent []byte) {
	t.Helper()
	got := make([]byte, len(sent))
	if _, err := io.ReadFull(client, got); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, sent) {
		t.Error("the peer received other bytes than were sent")
	}
	wait(t, "Writable", ev.writable)
	if c.Blocked() {
		t.Error("still blocked")
	}
}

func TestStalledPeerIsClosed(t *testing.T) {
	l := newLot(t, Options{WriteTimeout: 100 * time.Millisecond})
	c, _, ev := parked(t, l)
	c.Resume()
	for !c.Blocked() {
		c.Write(make([]byte, 100_000))
	}
	wait(t, "Readable", ev.readable)
	if n, err := c.Read(make([]byte, 1)); n > 0 || err == nil || errors.Is(err, ErrWouldBlock) {
		t.Errorf("Read gave %d, %v; want the end", n, err)
	}
	if _, err := c.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Write gave %v", err)
	}
}

// The timeout counts from the last acknowledged byte: bytes that were under way when the
// peer stopped do not postpone the end by another timeout. This also holds if the kernel's
// buffer has taken everything.
func TestWriteTimeoutCountsFromTheLastByte(t *testing.T) {
	const timeout = 1200 * time.Millisecond
	l := newLot(t, Options{WriteTimeout: timeout})
	var both sync.WaitGroup
	defer both.Wait()
	for name, fill := range map[string]func(c *Conn){
		"kept": func(c *Conn) {
			for !c.Blocked() {
				c.Write(make([]byte, 16<<10))
			}
		},
		"in the kernel": func(c *Conn) { c.Write(make([]byte, 64<<10)) },
	} {
		client, server := pairBy(t, net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
			return c.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 16<<10) })
		}})
		ev := newEvents()
		c := new(Conn)
		if _, err := l.Park(c, server, ev); err != nil {
			t.Fatal(err)
		}
		c.Resume()
		fill(c)
		if kept := c.Blocked(); kept != (name == "kept") {
			t.Errorf("%s: bytes are kept: %v", name, kept)
		}
		both.Go(func() {
			defer client.Close()
			defer c.Close()
			// The peer fills its buffers once, and then takes nothing.
			if _, err := io.ReadFull(client, make([]byte, 8<<10)); err != nil {
				t.Error(err)
				return
			}
			took := sinceLastByte(c, ev)
			t.Logf("%s: closed %v after the last byte", name, took)
			if took < timeout*7/8 || took > timeout*15/8 {
				t.Errorf("%s: closed %v after the last byte was acknowledged, want %v", name, took, timeout)
			}
		})
	}
}

// sinceLastByte waits for the end of c and returns the time since its peer acknowledged
// its last byte.
func sinceLastByte(c *Conn, ev *events) time.Duration {
	unacknowledged := func() int {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.waiting()
	}
	for last, waiting := time.Now(), unacknowledged(); ; {
		select {
		case <-ev.readable:
			return time.Since(last)
		case <-time.After(time.Millisecond):
			if now := unacknowledged(); now < waiting {
				last, waiting = time.Now(), now
			}
		}
	}
}

// A peer may take so little at a time that the kernel does not report the socket as
// writable for longer than the timeout. It is closed only after it has stalled.
func TestSlowPeerIsNotClosed(t *testing.T) {
	t.Parallel()
	const timeout = time.Second
	l := newLot(t, Options{WriteTimeout: timeout})
	// With a small buffer, the peer's kernel acknowledges little more than the peer reads.
	client, server := pairBy(t, net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 4096) })
	}})
	defer client.Close()
	ev := newEvents()
	c := new(Conn)
	_, err := l.Park(c, server, ev)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.Resume()
	for !c.Blocked() {
		c.Write(make([]byte, 100_000))
	}
	// All that it reads is less than a third of the buffer.
	b := make([]byte, 512)
	for began := time.Now(); time.Since(began) < 4*timeout; time.Sleep(timeout / 20) {
		if _, err := client.Read(b); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-ev.readable:
		t.Fatal("closed")
	case <-ev.writable:
		t.Fatal("the socket became writable, so the test proves nothing")
	default:
	}
	wait(t, "Readable", ev.readable)
}
