package hub

import (
	"time"

	"pubsub"
)

// resume sets the initial message of sub, if pm is not nil. Otherwise a new subscription
// skips everything before the version seen: its client has already received those
// messages, or was never promised them.
//
// If asLive is set, pm is delivered as if it came from the log.
func (l *topicLog) resume(sub *Subscription, isNew bool, pm *pubsub.PreparedMessage, asLive bool, seen pubsub.Version, b *backlog) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if sub.index < 0 { // it has left
		return
	}
	switch {
	case pm != nil:
		sub.setInitial(&initial{pm, l.initialPos(pm, sub), asLive}, b)
	case isNew && !seen.IsZero():
		at, _ := l.findVersion(seen, sub)
		l.skipTo(sub, at, b)
	}
	if !seen.IsZero() && seen.Newer(sub.seen) {
		sub.seen = seen
	}
}

// findVersion returns the position of the retained message of version v, or else of the
// first newer one, among those that sub has not read. If there is neither it returns the
// end, because v may still be on its way. mu must be held.
func (l *topicLog) findVersion(v pubsub.Version, sub *Subscription) (at uint64, exact bool) {
	if l.missesNewest(sub) {
		if l.newestVersion == v {
			return l.base, true
		}
		if l.newestVersion.Newer(v) {
			return sub.pos, false
		}
	}
	from := max(sub.pos, l.base)
	for i, e := range l.entries[from-l.base:] {
		if e.msg.Retain && (e.msg.Version == v || e.msg.Version.Newer(v)) {
			return from + uint64(i), e.msg.Version == v
		}
	}
	return l.end(), false
}

// initialPos returns the position at which sub must receive pm, the retained message read
// from the store, so that a publisher's messages keep their order. If pm is not in the
// log, it may be from before sub joined. It then precedes all messages that were
// published later. mu must be held.
func (l *topicLog) initialPos(pm *pubsub.PreparedMessage, sub *Subscription) uint64 {
	at, exact := l.findVersion(pm.Version, sub)
	for i := max(sub.pos, l.base); i < at && !exact; i++ {
		if l.entries[i-l.base].msg.Published.After(pm.Published) {
			at = i
		}
	}
	if at <= l.base {
		return sub.pos // everything before at has been cut
	}
	return at
}

// skipTo moves the cursor of sub to at, as if sub had read everything before it; mu is
// held.
func (l *topicLog) skipTo(sub *Subscription, at uint64, b *backlog) {
	if at <= sub.pos {
		return
	}
	sub.pos, sub.plainSeen = at, l.plainBefore(at)
	if at < l.end() {
		return
	}
	l.atEnd++
	l.compact(b)
}

// missesNewest reports whether the newest retained message was cut before sub has read
// it; mu must be held.
func (l *topicLog) missesNewest(sub *Subscription) bool {
	return (l.newest != nil || l.forgotNewest) && sub.pos <= l.newestAt && l.newestAt < l.base
}

// replaceForgotten gives pm, which was read from the store and may be nil, to sub in place
// of the forgotten message. forgotten is newestVersion as it was when the read began. If a
// newer message has been forgotten since then, done is false and the store must be read
// again.
func (l *topicLog) replaceForgotten(sub *Subscription, pm *pubsub.PreparedMessage, forgotten pubsub.Version, b *backlog) (done bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if sub.index < 0 || !l.forgotNewest || !l.missesNewest(sub) {
		return true
	}
	if l.newestVersion != forgotten {
		return false
	}
	sub.pos = l.newestAt + 1
	if pm != nil {
		sub.setInitial(&initial{pm, sub.pos, true}, b)
	}
	if sub.pos == l.end() {
		l.atEnd++
		l.compact(b)
	}
	return true
}

// maxPiece is the maximum length in bytes of a piece, without its last message.
const maxPiece = 16 << 10

// piece is the part of a topic's messages that a subscriber reads before it turns to its
// next topic.
type piece struct {
	ds    []Delivery
	head  int // bytes of each message besides its shared encoding
	bytes int
}

func (p *piece) hasRoom() bool { return len(p.ds) < cap(p.ds) && p.bytes < maxPiece }

func (p *piece) add(d Delivery) {
	p.ds = append(p.ds, d)
	if d.Message != nil {
		p.bytes += d.Message.MaxEncodedSize + p.head
	}
}

// read appends a piece of what sub has not read, its initial message included, to dst.
// Each message takes head bytes besides its shared encoding. unread reports whether there
// is more, forgotten whether the store must be read before that. expired is the number of
// messages omitted because they have expired. Only the goroutine that calls
// Subscriber.Read calls read.
func (l *topicLog) read(sub *Subscription, dst []Delivery, head int, now time.Time, b *backlog) (_ []Delivery, unread, forgotten bool, expired uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if sub.index < 0 { // it has left
		return dst, false, false, 0
	}
	p := piece{ds: dst, head: head}
	before := l.plainBefore(sub.pos)
	if i := sub.initial; i != nil && sub.pos >= i.at {
		lost := uint64(0)
		if i.asLive { // the lost messages came before it
			lost = before - sub.plainSeen
		}
		if sub.readInitial(&p, lost, now, &expired, b) && i.asLive {
			sub.plainSeen = before
		}
	}
	end := l.end()
	wasAtEnd := sub.pos == end
	switch {
	case l.missesNewest(sub) && l.forgotNewest:
		return p.ds, true, true, expired
	case wasAtEnd && sub.plainSeen == l.plainTotal:
		return p.ds, false, false, expired
	case !p.hasRoom():
		return p.ds, true, false, expired
	}
	lost := before - sub.plainSeen
	if sub.pos < l.base {
		if l.missesNewest(sub) && sub.accept(l.newest, false, now, &expired) {
			p.add(Delivery{Message: l.newest, Sub: sub, Options: sub.opts, Dropped: lost})
			lost = 0
		}
		sub.pos = l.base
	}
	sub.plainSeen = before
	for sub.pos < end && p.hasRoom() {
		if sub.initial != nil && sub.pos >= sub.initial.at {
			sub.readInitial(&p, 0, now, &expired, b)
			continue
		}
		e := &l.entries[sub.pos-l.base]
		sub.pos++
		if !e.msg.Retain {
			sub.plainSeen = e.plainBefore + 1
		}
		if !sub.accept(e.msg, false, now, &expired) {
			continue
		}
		p.add(Delivery{Message: e.msg, Sub: sub, Options: sub.opts, Dropped: lost})
		lost = 0
	}
	if lost > 0 {
		p.add(Delivery{Sub: sub, Options: sub.opts, Dropped: lost})
	}
	if sub.pos < end {
		return p.ds, true, false, expired
	}
	if !wasAtEnd {
		l.atEnd++
		l.compact(b)
	}
	if sub.initial != nil && !p.hasRoom() {
		return p.ds, true, false, expired
	}
	sub.readInitial(&p, 0, now, &expired, b)
	return p.ds, false, false, expired
}

// readInitial moves the initial message of sub, if there is one, to p. lost is the number
// of messages dropped before it. It reports whether the message was accepted.
func (sub *Subscription) readInitial(p *piece, lost uint64, now time.Time, expired *uint64, b *backlog) (accepted bool) {
	i := sub.initial
	if i == nil {
		return false
	}
	if accepted = sub.accept(i.msg, !i.asLive, now, expired); accepted {
		p.add(Delivery{Message: i.msg, Sub: sub, Options: sub.opts, Initial: !i.asLive, Dropped: lost})
	}
	sub.setInitial(nil, b)
	return accepted
}
