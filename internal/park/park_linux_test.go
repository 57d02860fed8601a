package park

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait.
const patience = 20 * time.Second

// newLot returns a lot that runs until the end of the test, and checks that it leaks no
// descriptor.
func newLot(t *testing.T, o Options) *Lot {
	t.Helper()
	before := descriptors(t)
	l, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.Run(ctx)
	}()
	t.Cleanup(func() {
		stop()
		<-done
		if after := descriptors(t); after > before {
			t.Errorf("%d descriptors are open, %d were before", after, before)
		}
	})
	return l
}

func descriptors(t *testing.T) int {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(fds)
}

// pair returns both ends of a TCP connection.
func pair(t *testing.T) (client, server net.Conn) {
	t.Helper()
	return pairBy(t, net.Dialer{})
}

func pairBy(t *testing.T, d net.Dialer) (client, server net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if client, err = d.Dial("tcp", ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	client.SetDeadline(time.Now().Add(patience))
	if server, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	return client, server
}

// events counts the calls of a Handler.
type events struct {
	readable, writable chan struct{}
}

func newEvents() *events {
	return &events{readable: make(chan struct{}, 100), writable: make(chan struct{}, 100)}
}

func (e *events) Readable() { e.readable <- struct{}{} }
func (e *events) Writable() { e.writable <- struct{}{} }

// parked returns a parked connection, its client's side and its events. Both sides are
// closed at the end of the test.
func parked(t *testing.T, l *Lot) (*Conn, net.Conn, *events) {
	t.Helper()
	client, server := pair(t)
	t.Cleanup(func() { client.Close() })
	ev := newEvents()
	c := new(Conn)
	if early, err := l.Park(c, server, ev); err != nil || len(early) > 0 {
		t.Fatal(early, err)
	}
	t.Cleanup(func() { c.Close() })
	return c, client, ev
}

func wait(t *testing.T, what string, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(patience):
		t.Fatal("no " + what)
	}
}

func TestReadableComesOnceUntilResumed(t *testing.T) {
	l := newLot(t, Options{})
	c, client, ev := parked(t, l)
	client.Write([]byte("one"))
	c.Resume()
	wait(t, "Readable", ev.readable)
	b := make([]byte, 10)
	if n, err := c.Read(b); string(b[:n]) != "one" || err != nil {
		t.Fatalf("%q, %v", b[:n], err)
	}
	if _, err := c.Read(b); !errors.Is(err, ErrWouldBlock) {
		t.Fatal(err)
	}
	client.Write([]byte("two"))
	c.Resume()
	wait(t, "Readable", ev.readable)
	client.Close() // not reported before Resume
	if n, _ := c.Read(b); string(b[:n]) != "two" {
		t.Fatalf("read %q, want two", b[:n])
	}
	if len(ev.readable) > 0 {
		t.Error("Readable came without Resume")
	}
	c.Resume()
	wait(t, "Readable at the end", ev.readable)
	if _, err := c.Read(b); err != io.EOF {
		t.Errorf("%v at the end, want EOF", err)
	}
}

func TestFinish(t *testing.T) {
	l := newLot(t, Options{})
	c, client, ev := parked(t, l)
	c.Resume()
	c.Write([]byte("last words"))
	c.Finish()
	if got, err := io.ReadAll(client); string(got) != "last words" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	select {
	case <-ev.readable:
		t.Error("Readable was called before the client closed its side")
	default:
	}
	client.Close()
	wait(t, "Readable", ev.readable)
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if err := c.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the second Close gave %v", err)
	}
}

// wrapper holds bytes that it has read ahead, like the wrapper for the PROXY protocol.
type wrapper struct {
	net.Conn
	ahead []byte
}

func (w *wrapper) Raw() net.Conn { return w.Conn }

func (w *wrapper) Read(b []byte) (int, error) {
	if len(w.ahead) > 0 {
		n := copy(b, w.ahead)
		w.ahead = w.ahead[n:]
		return n, nil
	}
	return w.Conn.Read(b)
}

func TestParkReturnsBytesReadAhead(t *testing.T) {
	l := newLot(t, Options{})
	client, server := pair(t)
	defer client.Close()
	c := new(Conn)
	early, err := l.Park(c, &wrapper{server, []byte("early")}, newEvents())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if string(early) != "early" {
		t.Errorf("Park returned %q", early)
	}
	c.Write([]byte("x"))
	b := make([]byte, 1)
	if _, err := io.ReadFull(client, b); err != nil || b[0] != 'x' {
		t.Errorf("%q, %v", b, err)
	}
}

func TestOnlyTCPIsParked(t *testing.T) {
	l := newLot(t, Options{})
	a, b := net.Pipe()
	defer a.Close()
	if _, err := l.Park(new(Conn), b, newEvents()); err == nil {
		t.Error("a pipe was parked")
	}
}

func TestWriteAllocatesNothing(t *testing.T) {
	l := newLot(t, Options{})
	c, client, _ := parked(t, l)
	b, got := []byte("a message"), make([]byte, 9)
	if n := testing.AllocsPerRun(100, func() {
		c.Write(b)
		io.ReadFull(client, got)
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
