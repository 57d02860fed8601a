//go:build linux

package main

import (
	"slices"

	"pubsub/internal/testkit/history"
)

// losses counts the plain messages that a subscriber has lost: those that the broker has announced,
// and those that the numbers of other messages show to be missing.
type losses struct {
	// Of this connection.
	announced uint64
	missing   uint64
	exact     bool // announced must be missing in the end

	// Of earlier connections.
	announcedBefore, missingBefore uint64
	// unseen is how many messages may have been lost to connections that were closed while much
	// was unread. The client cannot know of them.
	unseen uint64

	accounted bool // in the end, each lost message was announced
}

// open begins a new connection.
func (l *losses) open() { l.announced, l.missing, l.exact = 0, 0, true }

// count notes m, and the plain messages before m that are missing. c.mu must be held.
func (c *checker) count(p *progress, m *message) {
	next := p.next[m.publisher]
	switch {
	case next == 0 && m.retain:
		return // it may have been published before the subscription
	case next == 0:
		// All messages that were begun after the subscription must come.
		next = p.base[m.publisher] + 1
		if c.losses.announced > 0 {
			c.losses.exact = false // an earlier message may be among those announced
		}
		if m.plain < next {
			next = m.plain
		}
	}
	came := m.plain // the plain message that m shows to be due
	if m.retain {
		came++
	}
	if came > next {
		c.lose(came-next, p, m)
	}
	p.next[m.publisher] = max(next, m.plain+1) // a late message must not come again
}

// maySlip is how far the order of messages to a topic may differ from that of their offsets: by
// a large message of each other publisher.
const maySlip = 64 << 10

// mayOverflow reports whether, since the last message of a publisher came, so much of the topic may
// have been unread that the broker dropped the oldest messages.
func (p *progress) mayOverflow(publisher int) bool {
	return p.unread(publisher)+maySlip >= subscriberBuffer
}

// unread returns how many bytes were published to the topic since the last message of a publisher
// came.
func (p *progress) unread(publisher int) uint64 {
	return p.truth.offset.Load() - p.offset[publisher]
}

// lose notes that n plain messages before m are missing. A stream must have been notified, and
// there must have been a reason: more bytes than the subscriber's buffer were published since the
// publisher's last message came. c.mu must be held.
func (c *checker) lose(n uint64, p *progress, m *message) {
	c.losses.missing += n
	if !p.mayOverflow(m.publisher) {
		c.add(history.Loss, "%d messages before number %d of publisher %d to %s are missing, and no more than %d bytes can have been unread",
			n, m.seq, m.publisher, m.topic, p.unread(m.publisher))
		return
	}
	if l := &c.losses; c.kind != session && l.missing > l.announced {
		c.add(history.Loss, "%d messages before number %d of publisher %d to %s are missing, %d on this connection, and %d were announced",
			n, m.seq, m.publisher, m.topic, l.missing, l.announced)
	}
}

// dropped notes that the broker has announced n lost messages.
func (c *checker) dropped(n uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n == 0 || c.kind == session {
		c.add(history.Account, "%d lost messages were announced", n)
	}
	c.losses.announced += n
}

// primed reports whether a plain message of every publisher has come on this connection. From then
// on every loss can be counted.
func (c *checker) primed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.topics {
		for i, n := range p.next {
			if n == 0 && p.truth.begun[i].Load() > 0 {
				return false
			}
		}
	}
	return true
}

// caughtUp reports whether little of any topic is unread.
func (c *checker) caughtUp() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.topics {
		if p.truth.offset.Load()-slices.Max(p.offset) > 2*maySlip {
			return false
		}
	}
	return true
}

// closed notes that the connection has ended. atEnd reports whether the broker has closed it
// because the client did not read, perhaps after the last messages.
func (c *checker) closed(atEnd bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := &c.losses
	l.announcedBefore += l.announced
	l.missingBefore += l.missing
	l.announced, l.missing = 0, 0
	c.excused = c.excused || atEnd
	for _, p := range c.topics {
		for i := range p.next {
			if !p.mayOverflow(i) {
				continue
			}
			next := p.next[i]
			if next == 0 {
				next = p.base[i] + 1
			}
			if begun := p.truth.begun[i].Load(); begun >= next {
				l.unseen += begun - next + 1
			}
		}
	}
}

// account adds up the counts of checkers.
type account struct {
	received, announced, missing, unseen uint64
	accounted                            int // streams that lost messages, each of which was announced
}

func (a *account) add(c *checker) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := &c.losses
	a.received += c.received
	if c.kind == session {
		a.missing += l.missing + l.missingBefore
	} else {
		a.announced += l.announced + l.announcedBefore
	}
	if l.accounted {
		a.accounted++
	}
	a.unseen += l.unseen
}

// check compares the account with the broker's count, which includes messages that were lost to
// connections before their clients could know.
func (a *account) check(dropped uint64, v *history.Violations) {
	if known := a.announced + a.missing; dropped < known || dropped > known+a.unseen {
		v.Add(history.Account, "the broker has counted %d lost messages; %d were announced and %d found missing, and at most %d lost unseen",
			dropped, a.announced, a.missing, a.unseen)
	}
}
