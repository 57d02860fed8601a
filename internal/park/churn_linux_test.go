package park

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"
)

// churner answers each byte with its own name. The first of its handler and the other
// writer closes it.
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

// Connections come and go at random while another goroutine writes to them, even after
// they were closed. No client receives bytes that were meant for another one, and no
// descriptor leaks or is closed twice, which would close another connection.
func TestChurn(t *testing.T) {
	t.Run("write", func(t *testing.T) { churn(t, nil) })
	t.Run("ring", func(t *testing.T) { churn(t, newRing(t)) })
}

// churn writes by ring, unless that is nil.
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
	others.Go(func() { // writes to present and past connections, and closes some
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
