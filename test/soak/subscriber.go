//go:build linux

package main

import (
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"pubsub/internal/testkit/history"
)

// client is a connection that is subscribed.
type client interface {
	// read passes the next message to the subscriber's checker.
	read(*subscriber) error
	leave()
}

// crowd is the state that all subscribers share.
type crowd struct {
	// immutable
	addr       string
	longest    time.Duration // bounds how long a subscriber stays or stays away
	violations *history.Violations
	dialing    chan struct{} // holds a token for each connection that is being opened

	// finishing is closed when no subscriber leaves or stalls any more, lastStalls when those that
	// stall do so for the last time, until awake is closed, and over when all must leave. mu is
	// held for reading while a subscriber leaves, and for writing to close the channels.
	mu                                 sync.RWMutex
	finishing, lastStalls, awake, over chan struct{}

	// freezes are the stalls that lasted longer than the broker allows.
	connected, resumed, stalls, freezes, cutOffs atomic.Uint64
}

func newCrowd(addr string, duration time.Duration, v *history.Violations) *crowd {
	return &crowd{
		addr: addr, longest: min(40*time.Second, duration/3), violations: v,
		dialing:   make(chan struct{}, 64),
		finishing: make(chan struct{}), lastStalls: make(chan struct{}), awake: make(chan struct{}), over: make(chan struct{}),
	}
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// close closes one of the crowd's channels.
func (c *crowd) close(ch chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(ch)
}

// subscriber is one of the crowd.
type subscriber struct {
	// immutable
	habits
	crowd    *crowd
	token    string
	clientID string
	rand     *rand.Rand
	checker  *checker

	came atomic.Bool // it was subscribed once
	live atomic.Bool // it is subscribed
	// asleep is set once it has begun to stall for the last time.
	asleep atomic.Bool

	// owned by its goroutine
	lastID string
	nc     *net.TCPConn
	stall  stall

	mu sync.Mutex
	// guarded by mu
	client client // nil while it is not connected
	left   bool   // it has ended the connection itself
}

// stall holds the times when a subscriber reads nothing.
type stall struct {
	next   time.Time     // when the next stall begins
	lasted time.Duration // how long the last stall on this connection lasted
}

// run connects again and again until the soak is over.
func (s *subscriber) run() {
	for first := true; !closed(s.crowd.over); first = false {
		if err := s.connect(); err != nil {
			s.checker.add(history.Connection, "cannot connect: %v", err)
			s.pause(time.Second)
			continue
		}
		s.crowd.connected.Add(1)
		if !first && s.lastID != "" {
			s.crowd.resumed.Add(1)
		}
		s.stay()
		s.pause(time.Duration(s.rand.Int64N(int64(s.crowd.longest / 8))))
	}
}

// pause waits for d, or until finishing is closed.
func (s *subscriber) pause(d time.Duration) {
	select {
	case <-time.After(d):
	case <-s.crowd.finishing:
	}
}

func (s *subscriber) connect() error {
	s.crowd.dialing <- struct{}{}
	defer func() { <-s.crowd.dialing }()
	nc, err := net.DialTimeout("tcp", s.crowd.addr, handshakeTimeout)
	if err != nil {
		return err
	}
	s.nc = nc.(*net.TCPConn)
	if s.stalls {
		// Unread bytes soon stay with the broker. The buffer is not much smaller than two segments
		// of loopback, 64 KiB each, because then the kernel would send the little that fits only
		// rarely.
		if err := s.nc.SetReadBuffer(128 << 10); err != nil {
			return err
		}
	}
	c, err := s.open()
	if err != nil {
		nc.Close()
		return err
	}
	s.checker.open()
	s.stall = stall{next: time.Now().Add(time.Second + time.Duration(s.rand.Int64N(int64(4*time.Second))))}
	s.mu.Lock()
	s.client, s.left = c, closed(s.crowd.over)
	if s.left {
		c.leave()
	}
	s.mu.Unlock()
	s.came.Store(true)
	s.live.Store(true)
	return nil
}

func (s *subscriber) open() (client, error) {
	if s.checker.kind != session {
		c, err := openStream(s.nc, s)
		if err != nil {
			return nil, err
		}
		return c, nil
	}
	c, err := openSession(s.nc, s.token, s.clientID)
	if err != nil {
		return nil, err
	}
	return c, c.subscribe(s.topics)
}

// stay reads until the connection ends.
func (s *subscriber) stay() {
	if s.churns {
		stays := time.Second + time.Duration(s.rand.Int64N(int64(s.crowd.longest)))
		how := manner(s.rand.IntN(int(manners)))
		timer := time.AfterFunc(stays, func() { s.leave(how) })
		defer timer.Stop()
	}
	err := s.readAll()
	s.mu.Lock()
	left := s.left
	s.client = nil
	s.mu.Unlock()
	s.live.Store(false)
	s.nc.Close()
	// The broker may close a connection that has read nothing for so long.
	cutOff := !left && s.stall.lasted >= writeTimeout*4/5
	s.checker.closed(cutOff && closed(s.crowd.awake))
	switch {
	case isUnexpected(err):
		s.checker.add(history.Content, "%v", err)
	case cutOff:
		s.crowd.cutOffs.Add(1)
	case !left:
		s.checker.add(history.Connection, "the connection has ended, while the client was reading, with %v", err)
	}
}

// readAll reads, and stalls sometimes.
func (s *subscriber) readAll() error {
	for {
		if err := s.client.read(s); err != nil {
			return err
		}
		if !s.stalls {
			continue
		}
		switch {
		case !s.checker.primed() || s.asleep.Load():
		case closed(s.crowd.lastStalls):
			s.sleep()
		case time.Now().After(s.stall.next) && !closed(s.crowd.finishing):
			s.readNothing()
		}
	}
}

// sleep is the last stall.
func (s *subscriber) sleep() {
	begun := time.Now()
	s.asleep.Store(true)
	<-s.crowd.awake
	s.stall.lasted = time.Since(begun)
}

// readNothing is one stall.
func (s *subscriber) readNothing() {
	d := writeTimeout/4 + time.Duration(s.rand.Int64N(int64(writeTimeout/4)))
	if s.freezes {
		d = writeTimeout + writeTimeout/2
	}
	s.crowd.stalls.Add(1)
	begun := time.Now()
	s.pause(d)
	s.stall.lasted = time.Since(begun)
	if s.stall.lasted >= writeTimeout {
		s.crowd.freezes.Add(1)
	} else if s.freezes {
		s.goAway() // the broker may close it at any moment, while the last messages come
	}
	s.stall.next = time.Now().Add(2*time.Second + time.Duration(s.rand.Int64N(int64(6*time.Second))))
}

// manner is how a client leaves.
type manner int

const (
	orderly manner = iota // as its protocol prescribes
	silent                // by closing the connection
	reset
	manners
)

// goAway ends the connection, to open a new one.
func (s *subscriber) goAway() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.left = true
	s.nc.Close()
}

// leave ends the connection, unless the soak is finishing.
func (s *subscriber) leave(how manner) {
	s.crowd.mu.RLock()
	defer s.crowd.mu.RUnlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.client == nil || s.left || closed(s.crowd.finishing) && !closed(s.crowd.over) {
		return
	}
	s.left = true
	s.live.Store(false)
	switch how {
	case reset:
		s.nc.SetLinger(0)
		s.nc.Close()
	case silent:
		s.nc.Close()
	case orderly:
		s.client.leave()
	}
}

// gather waits until there is true of all subscribers.
func gather(subs []*subscriber, patience time.Duration, there func(*subscriber) bool) error {
	for begun := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		missing := 0
		for _, s := range subs {
			if !there(s) {
				missing++
			}
		}
		if missing == 0 {
			return nil
		}
		if time.Since(begun) > patience {
			return fmt.Errorf("%d of %d subscribers are not connected after %v", missing, len(subs), patience)
		}
	}
}
