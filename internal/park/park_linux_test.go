package park

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait for something that is to happen.
const patience = 20 * time.Second

// newLot returns a lot that runs until the end of the test, and then has left no
// descriptor behind.
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
	client, server := pair(t)
	defer client.Close()
	ev := newEvents()
	c := new(Conn)
	early, err := l.Park(c, server, ev)
	if err != nil || len(early) > 0 {
		t.Fatal(early, err)
	}
	defer c.Close()
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
	client.Close() // not told: Resume was not called
	if n, _ := c.Read(b); string(b[:n]) != "two" {
		t.Fatalf("%q", b[:n])
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

func TestWhatAPeerDoesNotTakeIsKept(t *testing.T) {
	l := newLot(t, Options{WriteTimeout: time.Minute})
	client, server := pair(t)
	defer client.Close()
	ev := newEvents()
	c := new(Conn)
	_, err := l.Park(c, server, ev)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
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
	// What comes while it is blocked follows in order.
	sent.WriteString("the end")
	c.Write([]byte("the end"))
	got := make([]byte, sent.Len())
	if _, err := io.ReadFull(client, got); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, sent.Bytes()) {
		t.Error("what came is not what was sent")
	}
	wait(t, "Writable", ev.writable)
	if c.Blocked() {
		t.Error("still blocked")
	}
}

func TestPeerThatTakesNothingIsClosed(t *testing.T) {
	l := newLot(t, Options{WriteTimeout: 100 * time.Millisecond})
	client, server := pair(t)
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
	wait(t, "Readable", ev.readable)
	if n, err := c.Read(make([]byte, 1)); n > 0 || err == nil || errors.Is(err, ErrWouldBlock) {
		t.Errorf("Read gave %d, %v; want the end", n, err)
	}
	if _, err := c.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Write gave %v", err)
	}
}

// "Counted from the last byte that was acknowledged": what was under way when the peer
// stopped, and arrives soon after, does not put the end off by another timeout. That
// holds as well where the kernel's buffer has taken everything.
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
			t.Errorf("%s: something is kept: %v", name, kept)
		}
		both.Go(func() {
			defer client.Close()
			defer c.Close()
			// The peer takes what fits into its buffers, once, and then nothing.
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

// sinceLastByte waits for the end of c and returns how long before that its peer has
// acknowledged its last byte.
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

// A peer may take so little at a time that for longer than the timeout the kernel
// does not call the socket writable. It is not one that takes nothing, until it is.
func TestPeerThatTakesLittleIsNotClosed(t *testing.T) {
	t.Parallel()
	const timeout = time.Second
	l := newLot(t, Options{WriteTimeout: timeout})
	// With a small buffer the peer's system takes no more than the peer.
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
		t.Fatal("the socket was writable: nothing was tested")
	default:
	}
	wait(t, "Readable", ev.readable)
}

func TestFinish(t *testing.T) {
	l := newLot(t, Options{})
	client, server := pair(t)
	defer client.Close()
	ev := newEvents()
	c := new(Conn)
	_, err := l.Park(c, server, ev)
	if err != nil {
		t.Fatal(err)
	}
	c.Resume()
	c.Write([]byte("last words"))
	c.Finish()
	if got, err := io.ReadAll(client); string(got) != "last words" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	select {
	case <-ev.readable:
		t.Error("the client has not closed its side, and that is to be read")
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

// wrapper holds bytes that it has read, as the PROXY protocol's does.
type wrapper struct {
	net.Conn
	held []byte
}

func (w *wrapper) Raw() net.Conn { return w.Conn }

func (w *wrapper) Read(b []byte) (int, error) {
	if len(w.held) > 0 {
		n := copy(b, w.held)
		w.held = w.held[n:]
		return n, nil
	}
	return w.Conn.Read(b)
}

func TestWhatAWrapperHoldsIsNotLost(t *testing.T) {
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
		t.Errorf("%q", early)
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

// churner answers each byte with its own name, and is closed by whoever comes
// first.
type churner struct {
	c    Conn
	name []byte
	once sync.Once
	left *sync.WaitGroup
}

func (h *churner) Writable() {}

func (h *churner) Readable() {
	var b [64]byte
	for {
		n, err := h.c.Read(b[:])
		switch {
		case errors.Is(err, ErrWouldBlock):
			h.c.Resume()
			return
		case err != nil:
			h.close()
			return
		}
		for range n {
			h.c.Write(h.name)
		}
	}
}

func (h *churner) close() {
	h.once.Do(func() {
		h.c.Close()
		h.left.Done()
	})
}

// Connections come and go at random, while others write to theirs, also after
// they have been closed. Nobody ever reads what was meant for somebody else, and
// no descriptor is left over or closed twice: that would be another's.
func TestChurn(t *testing.T) {
	t.Run("a call for each", func(t *testing.T) { churn(t, nil) })
	t.Run("a ring", func(t *testing.T) { churn(t, newRing(t)) })
}

// churn has the others write by ring, if that is not nil.
func churn(t *testing.T, ring *Ring) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	l := newLot(t, Options{WriteTimeout: time.Minute})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	const workers, rounds = 8, 400
	var left sync.WaitGroup
	var all sync.Map // *churner
	accepted := make(chan struct{})
	go func() {
		defer close(accepted)
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			var name [8]byte
			if _, err := io.ReadFull(nc, name[:]); err != nil {
				nc.Close()
				continue
			}
			h := &churner{name: name[:], left: &left}
			left.Add(1)
			if _, err = l.Park(&h.c, nc, h); err != nil {
				t.Error(err)
				continue
			}
			all.Store(h, nil)
			h.c.Resume()
		}
	}()
	stop := make(chan struct{})
	var others sync.WaitGroup
	others.Go(func() { // writes to whatever there is or was, and closes some
		rnd := rand.New(rand.NewPCG(seed, 1))
		for {
			select {
			case <-stop:
				return
			default:
			}
			all.Range(func(k, _ any) bool {
				h := k.(*churner)
				if ring == nil {
					h.c.Write(h.name)
				} else {
					ring.Write(&h.c, h.name)
				}
				if rnd.IntN(20) == 0 {
					h.close()
				}
				if rnd.IntN(10) == 0 {
					all.Delete(h)
				}
				return true
			})
			if ring != nil {
				ring.Flush()
			}
		}
	})
	var clients sync.WaitGroup
	for w := range workers {
		clients.Go(func() {
			rnd := rand.New(rand.NewPCG(seed, uint64(w+2)))
			for r := range rounds {
				nc, err := net.Dial("tcp", ln.Addr().String())
				if err != nil {
					t.Error(err)
					return
				}
				nc.SetDeadline(time.Now().Add(patience))
				name := fmt.Appendf(nil, "%03d-%04d", w, r)
				nc.Write(name)
				for range rnd.IntN(4) {
					nc.Write([]byte{'?'})
					got := make([]byte, len(name))
					if _, err := io.ReadFull(nc, got); err != nil {
						break // closed from the other side
					}
					if !bytes.Equal(got, name) {
						t.Errorf("%q read %q", name, got)
					}
				}
				nc.Close()
			}
		})
	}
	clients.Wait()
	close(stop)
	others.Wait()
	ln.Close()
	<-accepted
	gone := make(chan struct{})
	go func() {
		left.Wait()
		close(gone)
	}()
	wait(t, "end of the connections whose clients are gone", gone)
	for _, p := range l.pollers {
		p.mu.Lock()
		for i, s := range p.slots {
			if s.conn != nil {
				t.Errorf("slot %d is taken", i)
			}
		}
		if len(p.free) != len(p.slots) || len(p.due) > 0 {
			t.Errorf("%d of %d slots are free, %d connections due", len(p.free), len(p.slots), len(p.due))
		}
		p.mu.Unlock()
	}
}

func TestWriteAllocatesNothing(t *testing.T) {
	l := newLot(t, Options{})
	client, server := pair(t)
	defer client.Close()
	c := new(Conn)
	_, err := l.Park(c, server, newEvents())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	b, got := []byte("a message"), make([]byte, 9)
	if n := testing.AllocsPerRun(100, func() {
		c.Write(b)
		io.ReadFull(client, got)
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
