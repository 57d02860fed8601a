package hub

import (
	"math/rand/v2"
	"slices"
	"time"

	"pubsub"
)

// model is a simple implementation of the hub, for comparison. Its logs keep all messages
// for ever, and it counts lost messages by iterating over them.
type model struct {
	hub   *Hub
	rnd   *rand.Rand
	now   time.Time
	seq   uint64
	logs  map[modelKey]*modelLog
	peers []*modelPeer

	delivered, dropped, expired uint64

	overflowed bool // the hub forgets retained messages, but the model does not
}

type modelKey struct {
	shard *shard
	topic pubsub.Topic
}

type modelLog struct {
	all       []*pubsub.PreparedMessage
	cut       int // number of messages that were cut
	compacted int // number of messages at the last compaction
	version   pubsub.Version
	subs      []*modelSub
}

type modelPeer struct {
	*peer
	subs []*modelSub
}

type modelSub struct {
	peer      *modelPeer
	log       *modelLog
	real      *Subscription
	pos       int
	opts      SubscriptionOptions
	seen      pubsub.Version
	paused    bool
	initial   *pubsub.PreparedMessage
	initialAt int
}

func (l *modelLog) bytes() (n int) {
	for _, p := range l.all[l.cut:] {
		n += cost(p)
	}
	return n
}

func (l *modelLog) compact() {
	for _, s := range l.subs {
		if s.pos < len(l.all) {
			return
		}
	}
	l.cut, l.compacted = len(l.all), len(l.all)
}

// newest returns the newest retained message if it may be unread, otherwise nil.
func (l *modelLog) newest() *pubsub.PreparedMessage {
	for _, s := range l.subs {
		for i := len(l.all) - 1; i >= l.compacted; i-- {
			if s.pos < len(l.all) && l.all[i].Retain {
				return l.all[i]
			}
		}
	}
	return nil
}

// size returns the number of bytes that cutting all of l would free.
func (l *modelLog) size() (n int64) {
	newest := l.newest()
	for _, p := range l.all[l.cut:] {
		if n += entrySize; p != newest {
			n += p.Size()
		}
	}
	return n
}

// bytes returns the memory of all messages in use, each counted once.
func (m *model) bytes() (n int64) {
	kept := make(map[*pubsub.PreparedMessage]bool)
	for _, l := range m.logs {
		for _, p := range l.all[l.cut:] {
			n += entrySize
			kept[p] = true
		}
		if p := l.newest(); p != nil {
			kept[p] = true
		}
		for _, s := range l.subs {
			if s.initial != nil {
				kept[s.initial] = true
			}
		}
	}
	for p := range kept {
		n += p.Size()
	}
	return n
}

func (m *model) publish(p *pubsub.PreparedMessage) {
	for k, l := range m.logs {
		if k.topic != p.Topic || p.Retain && !p.Version.Newer(l.version) {
			continue
		}
		if p.Retain {
			l.version = p.Version
		}
		l.all = append(l.all, p)
		for l.bytes() > m.hub.opts.SubscriberBuffer && l.cut < len(l.all)-1 {
			l.cut++
		}
	}
	m.trim()
}

// trim cuts the largest logs if all together are above the limit.
func (m *model) trim() {
	limit := m.hub.opts.BacklogMemory
	excess := m.bytes() - limit/8*7
	if m.bytes() <= limit {
		return
	}
	topics, all := make(map[pubsub.Topic]int64), int64(0)
	for k, l := range m.logs {
		topics[k.topic] = max(topics[k.topic], l.size())
	}
	for _, n := range topics {
		all += n
	}
	// Find the largest size to which the logs can be cut to free excess bytes.
	size := int64(0)
	for step := int64(1 << 20); step > 0; step /= 2 {
		sum := int64(0)
		for _, n := range topics {
			sum += min(n, size+step)
		}
		if all-sum >= excess {
			size += step
		}
	}
	for _, l := range m.logs {
		for l.size() > size {
			l.cut++
		}
	}
	m.overflowed = m.bytes() > limit
}

func plainIn(ps []*pubsub.PreparedMessage) (n uint64) {
	for _, p := range ps {
		if !p.Retain {
			n++
		}
	}
	return n
}

func (m *model) accept(s *modelSub, p *pubsub.PreparedMessage, initial bool) bool {
	switch {
	case s.opts.NoLocal && p.Sender != "" && p.Sender == s.peer.sender:
		return false
	case p.Retain && p.Version.Generation == s.seen.Generation && p.Version.Seq < s.seen.Seq:
		return false
	case p.Retain && p.Version == s.seen && !initial:
		return false
	case p.Expired(m.now):
		m.expired++
		return false
	}
	if p.Retain {
		s.seen = p.Version
	}
	return true
}

// read returns the deliveries that Read must return for s, given dst with that capacity.
func (m *model) read(s *modelSub, capacity int) (ds []Delivery) {
	l := s.log
	piece := 0
	hasRoom := func() bool { return len(ds) < capacity && piece < maxPiece }
	give := func(p *pubsub.PreparedMessage, initial bool, lost uint64) {
		if p != nil {
			piece += p.MaxEncodedSize
		}
		ds = append(ds, Delivery{Message: p, Sub: s.real, Options: s.opts, Initial: initial, Dropped: lost})
	}
	readInitial := func() {
		if p := s.initial; p != nil && s.pos >= s.initialAt && hasRoom() {
			s.initial = nil
			if m.accept(s, p, true) {
				give(p, true, 0)
			}
		}
	}
	readInitial()
	var lost uint64
	if s.pos < l.cut {
		lost = plainIn(l.all[s.pos:l.cut])
		for newest := len(l.all) - 1; newest >= s.pos; newest-- {
			if p := l.all[newest]; p.Retain {
				if newest < l.cut && m.accept(s, p, false) {
					give(p, false, lost)
					lost = 0
				}
				break
			}
		}
		s.pos = l.cut
	}
	for ; s.pos < len(l.all) && hasRoom(); s.pos++ {
		if readInitial(); !hasRoom() {
			break
		}
		if p := l.all[s.pos]; m.accept(s, p, false) {
			give(p, false, lost)
			lost = 0
		}
	}
	if lost > 0 {
		give(nil, false, lost)
	}
	if s.pos == len(l.all) {
		readInitial()
	}
	l.compact()
	for _, d := range ds {
		m.dropped += d.Dropped
		if d.Message != nil {
			m.delivered++
		}
	}
	return ds
}

func (m *model) leave(s *modelSub) {
	if s.pos < s.log.cut {
		m.dropped += plainIn(s.log.all[s.pos:s.log.cut])
	}
	s.log.subs = slices.DeleteFunc(s.log.subs, func(o *modelSub) bool { return o == s })
	s.peer.subs = slices.DeleteFunc(s.peer.subs, func(o *modelSub) bool { return o == s })
	s.log.compact()
	if len(s.log.subs) == 0 {
		delete(m.logs, modelKey{s.peer.shard, s.real.Topic()})
	}
}

// findVersion returns the index of version v among the unread messages of s, or else of
// the first newer version, or else the end. Of the messages that were cut, only the
// newest retained one counts.
func (m *model) findVersion(s *modelSub, v pubsub.Version) (at int, exact bool) {
	l := s.log
	newest := len(l.all) - 1
	for newest >= s.pos && !l.all[newest].Retain {
		newest--
	}
	if newest >= s.pos && newest < l.cut {
		switch p := l.all[newest]; {
		case p.Version == v:
			return l.cut, true
		case p.Version.Newer(v):
			return s.pos, false
		}
	}
	for i := max(s.pos, l.cut); i < len(l.all); i++ {
		if p := l.all[i]; p.Retain && (p.Version == v || p.Version.Newer(v)) {
			return i, p.Version == v
		}
	}
	return len(l.all), false
}

// initialPos returns the index at which s receives the initial message pm.
func (m *model) initialPos(s *modelSub, p *pubsub.PreparedMessage) int {
	at, exact := m.findVersion(s, p.Version)
	for i := max(s.pos, s.log.cut); i < at && !exact; i++ {
		if s.log.all[i].Published.After(p.Published) {
			at = i
		}
	}
	if at <= s.log.cut {
		return s.pos
	}
	return at
}
