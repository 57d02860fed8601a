package conn

import (
	"errors"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// slowConn takes bytes as the function takes says: how many in all after a time.
type slowConn struct {
	net.Conn
	began    time.Time
	takes    func(time.Duration) int
	taken    int
	last     time.Time // when it last took bytes
	set      int       // how often the deadline was set
	deadline atomic.Pointer[time.Time]
}

func (c *slowConn) SetWriteDeadline(t time.Time) error {
	c.deadline.Store(&t)
	c.set++
	return nil
}

func (c *slowConn) Write(b []byte) (n int, err error) {
	for {
		if k := min(c.takes(time.Since(c.began))-c.taken, len(b)-n); k > 0 {
			n, c.taken, c.last = n+k, c.taken+k, time.Now()
		}
		switch {
		case n == len(b):
			return n, nil
		case !time.Now().Before(*c.deadline.Load()):
			return n, os.ErrDeadlineExceeded
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// Write fails when the peer has accepted no data for the timeout, counted from the last byte, even
// if it has taken some in the same Write.
func TestWriteLimit(t *testing.T) {
	const timeout = 30 * time.Second
	for _, tt := range []struct {
		name  string
		takes func(time.Duration) int
		all   bool // whether all bytes are taken in the end
	}{
		{"nothing", func(time.Duration) int { return 0 }, false},
		{"some at once", func(time.Duration) int { return 900 }, false},
		{"some later", func(d time.Duration) int { return 100 * min(9, int(d/(20*time.Second))) }, false},
		{"little and little", func(d time.Duration) int { return 100 * int(d/(29*time.Second)) }, true},
		{"all at once", func(time.Duration) int { return 1 << 20 }, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				time.Sleep(time.Second)
				c := &slowConn{began: time.Now(), last: time.Now(), takes: tt.takes}
				var l WriteLimit
				n, err := l.Write(c, timeout, make([]byte, 1000))
				switch {
				case n != min(c.taken, 1000):
					t.Errorf("%d bytes were written, %d taken", n, c.taken)
				case tt.all && (err != nil || n != 1000):
					t.Errorf("%d bytes were written, %v", n, err)
				case !tt.all && !errors.Is(err, os.ErrDeadlineExceeded):
					t.Errorf("the error is %v", err)
				}
				if after := time.Since(c.last); !tt.all && (after < timeout || after > timeout+timeout/8+10*time.Millisecond) {
					t.Errorf("given up %v after the last byte", after)
				}
			})
		})
	}
}

// A writer that does not block rarely sets the deadline, and an earlier deadline of another
// goroutine ends a Write that blocks.
func TestWriteLimitDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := &slowConn{began: time.Now(), takes: func(time.Duration) int { return 1 << 30 }}
		var l WriteLimit
		for range 1000 {
			if _, err := l.Write(all, 30*time.Second, []byte("x")); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Millisecond)
		}
		if all.set > 6 {
			t.Errorf("the deadline was set %d times in 10 s", all.set)
		}

		none := &slowConn{began: time.Now(), takes: func(time.Duration) int { return 0 }}
		l = WriteLimit{}
		time.AfterFunc(time.Second, func() {
			now := time.Now()
			none.deadline.Store(&now)
		})
		began := time.Now()
		if _, err := l.Write(none, 30*time.Second, []byte("x")); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) > 2*time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
}
