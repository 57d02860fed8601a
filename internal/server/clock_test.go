package server

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"pubsub"
	"pubsub/internal/mqtt"
	"pubsub/internal/testkit"
)

// wallClock is a clock for a synctest bubble whose wall clock can jump.
type wallClock struct{ off atomic.Int64 }

func (c *wallClock) jump(d time.Duration) { c.off.Add(int64(d)) }

func (c *wallClock) now() time.Time {
	now := time.Now()
	return reading(now.Add(time.Duration(c.off.Load())), now.UnixNano())
}

// reading returns a time with the wall clock reading wall and the monotonic reading mono.
// Package time cannot set a monotonic reading, and a bubble has none, so reading fills in
// the representation of a time that has both.
func reading(wall time.Time, mono int64) time.Time {
	t := time.Now()
	parts := (*struct {
		wall uint64
		ext  int64
		loc  *time.Location
	})(unsafe.Pointer(&t))
	since1885 := uint64(wall.Unix() - time.Date(1885, 1, 1, 0, 0, 0, 0, time.UTC).Unix())
	parts.wall = 1<<63 | since1885<<30 | uint64(wall.Nanosecond())
	parts.ext = mono
	return t
}

func TestReading(t *testing.T) {
	for _, d := range []time.Duration{time.Hour, -time.Hour, 1500 * time.Millisecond} {
		now := time.Now()
		a, b := reading(now, 1), reading(now.Add(d), 1001)
		if got := b.Sub(a); got != 1000 {
			t.Errorf("%v by the monotonic clock", got)
		}
		if got := b.Round(0).Sub(a.Round(0)); got != d || !b.Round(0).Equal(now.Add(d)) {
			t.Errorf("%v by the wall clock, want %v", got, d)
		}
	}
}

// atJump runs f in a bubble with a clock that can jump. Keep-alives are too rare to detect an
// expired token.
func atJump(t *testing.T, f func(t *testing.T, s *Server, c *wallClock, key pubsub.Key)) {
	t.Helper()
	var c wallClock
	inTime(t, func(o *Options) {
		o.Now, o.SSEKeepAlive, o.WSKeepAlive = c.now, 24*time.Hour, 24*time.Hour
	}, func(t *testing.T, s *Server) {
		key := pubsub.Key{ID: "k", Value: "a secret value", Created: time.Now()}
		if err := s.o.Backplane.PutKey(t.Context(), key); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		f(t, s, &c, key)
	})
}

// expiringConns opens a stream and several sessions, whose tokens expire after life by the
// clock c.
func expiringConns(t *testing.T, s *Server, c *wallClock, key pubsub.Key, life time.Duration) map[string]*peer {
	t.Helper()
	token := testkit.Sign(key, map[string]any{"exp": c.now().Add(life - 30*time.Second).Unix(), "x-fastly-read": []string{"t", "busy"}})
	login := func(id string, keepAlive uint16) *mqtt.Connect {
		c := connect(id+life.String(), keepAlive) // distinct, so that no session takes over another
		c.Password = []byte(token)
		return c
	}
	busy := &mqtt.Subscribe{PacketID: 1, Filters: []mqtt.Filter{{Topic: "busy"}}}
	conns := map[string]*peer{
		"stream":                openStream(t, s, c.now().Add(life)),
		"session":               openSocket(t, s, login("a", 0)),
		"session on a topic":    openSocket(t, s, login("b", 0), busy),
		"session, keep-alive 1": openSocket(t, s, login("c", 65535)),
	}
	synctest.Wait()
	return conns
}

// hasExpired reports whether the client was notified, once, that its token has expired.
func hasExpired(p *peer) bool {
	return len(p.times(`{"condition":"token-expired","text":"Token expired"}`))+
		len(p.times(string((&mqtt.Disconnect{Reason: mqtt.NotAuthorized}).Append(nil)))) == 1
}

// A stream or session ends when its token expires by the wall clock. If that clock jumps, it
// ends within 30 s.
func TestWallClockJumpsAhead(t *testing.T) {
	atJump(t, func(t *testing.T, s *Server, c *wallClock, key pubsub.Key) {
		conns := expiringConns(t, s, c, key, time.Minute)
		lasting := openStream(t, s, c.now().Add(2*time.Hour))
		time.Sleep(10 * time.Second)
		c.jump(time.Hour)
		for range 30 {
			publish(t, s, "busy", "a message") // written to, so that it is not silent
			time.Sleep(time.Second)
		}
		for name, p := range conns {
			if end := p.end(); end == 0 || end > 40*time.Second || !hasExpired(p) {
				t.Errorf("%s: ended after %v, notified: %v; the clock jumped after 10 s", name, end, hasExpired(p))
			}
		}
		if lasting.end() != 0 {
			t.Error("a stream has ended an hour before its token expires")
		}
		// The jump is not applied twice.
		time.Sleep(59*time.Minute + 21*time.Second)
		if lasting.end() == 0 || !hasExpired(lasting) {
			t.Error("a stream has not ended when its token expired by the wall clock")
		}
	})
}

// After a step back, tokens expire by the wall clock, both those of connected clients and
// those of new ones.
func TestWallClockStepsBack(t *testing.T) {
	atJump(t, func(t *testing.T, s *Server, c *wallClock, key pubsub.Key) {
		before := expiringConns(t, s, c, key, 10*time.Minute)
		time.Sleep(5 * time.Minute)
		c.jump(-time.Hour)
		after := expiringConns(t, s, c, key, 20*time.Minute)
		check := func(when string, conns map[string]*peer, over bool) {
			t.Helper()
			synctest.Wait()
			for name, p := range conns {
				if (p.end() != 0) != over || over && !hasExpired(p) {
					t.Errorf("%s, %s: ended after %v, notified: %v", when, name, p.end(), hasExpired(p))
				}
			}
		}
		time.Sleep(19*time.Minute + 50*time.Second)
		check("10 s before the end", after, false)
		time.Sleep(11 * time.Second)
		check("at the end", after, true)
		check("long before the end", before, false)
		time.Sleep(44*time.Minute + 50*time.Second)
		check("9 s before the end", before, false)
		time.Sleep(10 * time.Second)
		check("at the end", before, true)
	})
}

// All other times go by the monotonic clock: a jump neither ends nor delays anything.
func TestWallClockJumpAffectsOnlyTokens(t *testing.T) {
	for _, by := range []time.Duration{time.Hour, -time.Hour} {
		t.Run(by.String(), func(t *testing.T) {
			var c wallClock
			inTime(t, func(o *Options) { o.Now = c.now }, func(t *testing.T, s *Server) {
				silent := openSocket(t, s)
				stream := openStream(t, s, time.Time{})
				session := openSocket(t, s, connect("c", 20))
				time.Sleep(5 * time.Second)
				c.jump(by)
				time.Sleep(29 * time.Second)
				near(t, "the end of a silent connection", silent.end(), 10*time.Second)
				near(t, "the end of a session without a packet", session.end(), 30*time.Second)
				if got := stream.times("event: keep-alive"); len(got) != 1 {
					t.Errorf("keep-alive events at %v, want 1", got)
				} else {
					near(t, "the keep-alive event", got[0], 25*time.Second)
				}
				if stream.end() != 0 {
					t.Error("a stream without a token has ended")
				}
			})
		})
	}
}

// A jump is reported once. A clock that NTP slows down or speeds up is not.
func TestClockJumpIsReported(t *testing.T) {
	var c wallClock
	var jumps []time.Duration
	inTime(t, func(o *Options) {
		o.Now = c.now
		o.Events.ClockJumped = func(by time.Duration) { jumps = append(jumps, by) }
	}, func(t *testing.T, s *Server) {
		for range 100 {
			c.jump(5 * time.Millisecond)
			time.Sleep(10 * time.Second)
		}
		c.jump(time.Hour)
		time.Sleep(time.Minute)
		c.jump(-2 * time.Hour)
		time.Sleep(time.Minute)
		synctest.Wait()
		if len(jumps) != 2 || jumps[0] < time.Hour || jumps[0] > time.Hour+time.Second || jumps[1] != -2*time.Hour {
			t.Errorf("jumps %v, want an hour ahead and two hours back", jumps)
		}
	})
}
