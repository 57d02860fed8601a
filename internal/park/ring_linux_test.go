package park

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// newRing returns a ring that lasts as long as the test. It skips the test if the kernel
// refuses io_uring, as in many containers.
func newRing(t *testing.T) *Ring {
	t.Helper()
	r, err := NewRing()
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL) {
		t.Skip("the kernel does not allow io_uring: ", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

// The writes exceed a ring's bytes, and the connections exceed its submissions.
func TestRingSendsToMany(t *testing.T) {
	l, r := newLot(t, Options{}), newRing(t)
	const conns, size = ringSends + 50, 2000
	var clients []net.Conn
	message := func(i int) []byte { return bytes.Repeat(fmt.Appendf(nil, "%08d", i), size/8) }
	b := make([]byte, size)
	for i := range conns {
		c, client, _ := parked(t, l)
		clients = append(clients, client)
		copy(b, message(i)) // the ring must have copied the previous message
		if n, err := r.Write(c, b); n != size || err != nil {
			t.Fatal(n, err)
		}
	}
	r.Flush()
	for i, client := range clients {
		if _, err := io.ReadFull(client, b); err != nil || !bytes.Equal(b, message(i)) {
			t.Fatalf("connection %d: %.20q, %v", i, b, err)
		}
	}
}

// Writes stay in order whether they are collected, too large to be collected, or kept
// because the peer takes no more.
func TestRingKeepsTheOrder(t *testing.T) {
	l, r := newLot(t, Options{WriteTimeout: time.Minute}), newRing(t)
	c, client, ev := parked(t, l)
	c.Resume()
	var sent bytes.Buffer
	for i := 0; !c.Blocked(); i++ {
		piece := bytes.Repeat([]byte{byte(i)}, []int{100, ringMax, ringMax + 1}[i%3])
		sent.Write(piece)
		if n, err := r.Write(c, piece); n != len(piece) || err != nil {
			t.Fatal(n, err)
		}
		if i%5 == 0 {
			r.Flush()
		}
		if sent.Len() > 64<<20 {
			t.Fatal("a peer that reads nothing has taken 64 MiB")
		}
	}
	sent.WriteString("the end")
	r.Write(c, []byte("the end"))
	r.Flush()
	checkSent(t, c, client, ev, sent.Bytes())
}

// A connection is closed while a write to it is collected. Its descriptor is not reused
// before that write has been sent.
func TestRingAndClose(t *testing.T) {
	l, r := newLot(t, Options{}), newRing(t)
	first, client, _ := parked(t, l)
	fd := first.fd
	r.Write(first, []byte("first"))
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second, other, _ := parked(t, l)
	if second.fd == fd {
		t.Fatal("the descriptor was reused")
	}
	if _, err := r.Write(first, []byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Write after Close gave %v", err)
	}
	r.Write(second, []byte("second"))
	r.Flush()
	if b, err := io.ReadAll(client); string(b) != "first" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
	second.Close()
	if b, err := io.ReadAll(other); string(b) != "second" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
}

func TestRingAndBrokenConnection(t *testing.T) {
	l, r := newLot(t, Options{}), newRing(t)
	c, client, ev := parked(t, l)
	c.Resume()
	client.(*net.TCPConn).SetLinger(0)
	client.Close()
	wait(t, "Readable", ev.readable)
	if n, err := r.Write(c, []byte("x")); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	r.Flush()
	wait(t, "Writable", ev.writable)
	if _, err := r.Write(c, []byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Write gave %v", err)
	}
}

func TestRingAllocatesNothing(t *testing.T) {
	l, r := newLot(t, Options{}), newRing(t)
	c, client, _ := parked(t, l)
	b, got := []byte("a message"), make([]byte, 9)
	if n := testing.AllocsPerRun(100, func() {
		r.Write(c, b)
		r.Flush()
		io.ReadFull(client, got)
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
