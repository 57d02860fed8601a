package hub

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"pubsub"
)

// model is a hub written to be obviously right: each log keeps all that was ever
// published, and what a member lost is counted by looking.
type model struct {
	hub   *Hub
	rnd   *rand.Rand
	now   time.Time
	seq   uint64
	logs  map[modelKey]*modelLog
	peers []*modelPeer

	delivered, dropped, expired uint64

	forgets bool // it is so full that newest messages are forgotten: the model does not do that
}

type modelKey struct {
	shard *shard
	topic pubsub.Topic
}

type modelLog struct {
	all     []*pubsub.PreparedMessage
	cut     int // those before are not kept any more
	settled int // how many there were when all had read everything
	version pubsub.Version
	subs    []*modelSub
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
	held      bool
	initial   *pubsub.PreparedMessage
	initialAt int
}

func (l *modelLog) bytes() (n int) {
	for _, p := range l.all[l.cut:] {
		n += cost(p)
	}
	return n
}

func (l *modelLog) settle() {
	for _, s := range l.subs {
		if s.pos < len(l.all) {
			return
		}
	}
	l.cut, l.settled = len(l.all), len(l.all)
}

// newest is the newest retained message while it may be unread, nil if there is none.
func (l *modelLog) newest() *pubsub.PreparedMessage {
	for _, s := range l.subs {
		for i := len(l.all) - 1; i >= l.settled; i-- {
			if s.pos < len(l.all) && l.all[i].Retain {
				return l.all[i]
			}
		}
	}
	return nil
}

// size is what cutting all of l would free.
func (l *modelLog) size() (n int64) {
	newest := l.newest()
	for _, p := range l.all[l.cut:] {
		if n += entrySize; p != newest {
			n += p.Size()
		}
	}
	return n
}

// bytes is what the node keeps: each message once.
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

// trim cuts the longest topics if all together have too much.
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
	// The greatest length that, if no topic is longer, keeps all within bounds.
	level := int64(0)
	for step := int64(1 << 20); step > 0; step /= 2 {
		sum := int64(0)
		for _, n := range topics {
			sum += min(n, level+step)
		}
		if all-sum >= excess {
			level += step
		}
	}
	for _, l := range m.logs {
		for l.size() > level {
			l.cut++
		}
	}
	m.forgets = m.bytes() > limit
}

func plainIn(ps []*pubsub.PreparedMessage) (n uint64) {
	for _, p := range ps {
		if !p.Retain {
			n++
		}
	}
	return n
}

func (m *model) takes(s *modelSub, p *pubsub.PreparedMessage, initial bool) bool {
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

// read is what a Read of s with that much room is to give.
func (m *model) read(s *modelSub, room int) (ds []Delivery) {
	l := s.log
	piece := 0
	hasRoom := func() bool { return len(ds) < room && piece < maxPiece }
	give := func(p *pubsub.PreparedMessage, initial bool, lost uint64) {
		if p != nil {
			piece += p.MaxEncodedSize
		}
		ds = append(ds, Delivery{Message: p, Sub: s.real, Options: s.opts, Initial: initial, Dropped: lost})
	}
	past := func() {
		if p := s.initial; p != nil && s.pos >= s.initialAt && hasRoom() {
			s.initial = nil
			if m.takes(s, p, true) {
				give(p, true, 0)
			}
		}
	}
	past()
	var lost uint64
	if s.pos < l.cut {
		lost = plainIn(l.all[s.pos:l.cut])
		for newest := len(l.all) - 1; newest >= s.pos; newest-- {
			if p := l.all[newest]; p.Retain {
				if newest < l.cut && m.takes(s, p, false) {
					give(p, false, lost)
					lost = 0
				}
				break
			}
		}
		s.pos = l.cut
	}
	for ; s.pos < len(l.all) && hasRoom(); s.pos++ {
		if past(); !hasRoom() {
			break
		}
		if p := l.all[s.pos]; m.takes(s, p, false) {
			give(p, false, lost)
			lost = 0
		}
	}
	if lost > 0 {
		give(nil, false, lost)
	}
	if s.pos == len(l.all) {
		past()
	}
	l.settle()
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
	s.log.settle()
	if len(s.log.subs) == 0 {
		delete(m.logs, modelKey{s.peer.shard, s.real.Topic()})
	}
}

func (m *model) topic() pubsub.Topic { return pubsub.Topic(fmt.Sprint("t", m.rnd.IntN(4))) }

func (m *model) parcel(topic pubsub.Topic) *pubsub.PreparedMessage {
	msg := pubsub.Message{Topic: topic, Published: m.now, Data: []byte(strings.Repeat("x", m.rnd.IntN(300)))}
	if m.rnd.IntN(2) == 0 && len(m.peers) > 0 {
		msg.Sender = m.peers[m.rnd.IntN(len(m.peers))].sender
	}
	if m.rnd.IntN(4) == 0 {
		msg.HasTTL, msg.TTL = true, uint32(m.rnd.IntN(4))
	}
	if m.rnd.IntN(3) == 0 {
		msg.Retain = true
		m.seq++
		msg.Version = m.version()
		if m.rnd.IntN(40) == 0 {
			msg.Version.Generation++
		}
	}
	return pubsub.NewPreparedMessage(msg)
}

// version is the newest, or an older one.
func (m *model) version() pubsub.Version {
	seq := m.seq
	if m.rnd.IntN(4) == 0 {
		seq -= min(seq-min(seq, 1), m.rnd.Uint64N(8))
	}
	return pubsub.Version{Generation: gen, Seq: seq}
}

func (m *model) subscribe(t *testing.T, p *modelPeer) {
	topic := m.topic()
	opts := SubscriptionOptions{NoLocal: m.rnd.IntN(3) == 0, ID: m.rnd.Uint32N(9)}
	real, err := p.Subscribe(t.Context(), topic, opts)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range p.subs {
		if s.real == real { // again
			s.opts = opts
			m.open(s)
			return
		}
	}
	k := modelKey{p.shard, topic}
	if m.logs[k] == nil {
		m.logs[k] = &modelLog{}
	}
	l := m.logs[k]
	s := &modelSub{peer: p, log: l, real: real, pos: len(l.all), opts: opts, held: true}
	l.subs = append(l.subs, s)
	p.subs = append(p.subs, s)
}

func (m *model) open(s *modelSub) {
	var initial *pubsub.PreparedMessage
	var seen pubsub.Version
	if m.rnd.IntN(2) == 0 {
		initial = m.parcel(s.real.Topic())
		initial.Retain = true
		initial.Version = m.version()
		initial.Published = m.now.Add(-time.Duration(m.rnd.IntN(5000)) * time.Millisecond)
	}
	if m.rnd.IntN(2) == 0 {
		seen = m.version()
	}
	if initial != nil {
		s.initial, s.initialAt = initial, m.place(s, initial)
	} else if s.held && !seen.IsZero() {
		s.pos, _ = m.find(s, seen)
		s.log.settle()
	}
	if seen.Newer(s.seen) {
		s.seen = seen
	}
	s.held = false
	s.real.Resume(initial, seen)
}

// find is where v is among what s has not read, or else a newer one, or else the
// end. Of what was cut off, only the newest retained message is known.
func (m *model) find(s *modelSub, v pubsub.Version) (at int, exact bool) {
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

// place is where s is given what is retained.
func (m *model) place(s *modelSub, p *pubsub.PreparedMessage) int {
	at, exact := m.find(s, p.Version)
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

// readOne has p read one piece, and compares.
func (m *model) readOne(t *testing.T, p *modelPeer) (asleep bool) {
	next := p.readyTail
	if last := p.readyTail; last != nil {
		for next = last.next; next.paused && next != last; {
			next = next.next
		}
		if next.paused {
			next = nil
		}
	}
	if m.trim(); m.forgets {
		return true
	}
	room := 2 + m.rnd.IntN(5)
	ds, asleep := p.Read(make([]Delivery, 0, room), 0, m.now)
	var want []Delivery
	for _, s := range p.subs {
		if s.real == next {
			want = m.read(s, room)
		}
	}
	if !slices.Equal(ds, want) {
		t.Fatalf("read\n%v, want\n%v", describe(ds), describe(want))
	}
	return asleep
}

func describe(ds []Delivery) []string {
	var out []string
	for _, d := range ds {
		text := fmt.Sprintf("dropped %d, initial %v, %+v", d.Dropped, d.Initial, d.Options)
		if d.Message != nil {
			text += fmt.Sprintf(", %d bytes, version %v", len(d.Message.Data), d.Message.Version)
		}
		out = append(out, text)
	}
	return out
}

func (m *model) step(t *testing.T) {
	pick := func() *modelPeer { return m.peers[m.rnd.IntN(len(m.peers))] }
	pickSub := func() *modelSub {
		if p := pick(); len(p.subs) > 0 {
			return p.subs[m.rnd.IntN(len(p.subs))]
		}
		return nil
	}
	what := m.rnd.IntN(20)
	if len(m.peers) == 0 {
		what = 8
	}
	switch what {
	case 0, 1, 2, 3, 4, 5, 6, 7:
		p := m.parcel(m.topic())
		m.hub.Deliver(p)
		m.publish(p)
	case 8:
		if len(m.peers) < 12 {
			p := &modelPeer{peer: newPeer(m.hub, fmt.Sprint("client", m.rnd.IntN(6)))}
			m.peers = append(m.peers, p)
			m.subscribe(t, p)
		}
	case 9, 10:
		m.subscribe(t, pick())
	case 11, 12:
		if s := pickSub(); s != nil {
			m.open(s)
		}
	case 13:
		if s := pickSub(); s != nil {
			if !s.peer.Unsubscribe(s.real.Topic()) {
				t.Fatal("Unsubscribe says that there is nothing to leave")
			}
			m.leave(s)
		}
	case 14:
		if m.rnd.IntN(3) == 0 {
			i := m.rnd.IntN(len(m.peers))
			p := m.peers[i]
			m.peers = slices.Delete(m.peers, i, i+1)
			p.Close()
			for len(p.subs) > 0 {
				m.leave(p.subs[0])
			}
		}
	case 15:
		m.now = m.now.Add(time.Duration(m.rnd.IntN(1500)) * time.Millisecond)
	case 16:
		for _, s := range m.hub.shards {
			s.slice()
		}
	default: // most are slow: they read a piece now and then
		if p := pick(); p.isAwake() {
			m.readOne(t, p)
		}
	}
	m.hub.check(t)
	if m.forgets {
		return
	}
	if got, want := m.hub.backlog.bytes.Load(), m.bytes(); got != want {
		t.Fatalf("logs hold %d bytes, want %d", got, want)
	}
}

// finish has everybody read everything, and leave.
func (m *model) finish(t *testing.T) {
	m.hub.pump()
	for _, p := range m.peers {
		for _, s := range p.subs {
			if s.held {
				m.open(s)
			}
			if s.pos < len(s.log.all) && !p.isAwake() {
				t.Fatal("a member with something unread was not woken")
			}
		}
		if p.isAwake() {
			for !m.readOne(t, p) {
			}
		}
		for _, s := range p.subs {
			if s.pos < len(s.log.all) || s.initial != nil {
				t.Fatal("a member is asleep with something unread")
			}
		}
	}
	m.hub.check(t)
	st := m.hub.Stats()
	if st.Delivered != m.delivered || st.Dropped != m.dropped || st.Expired != m.expired || st.BacklogBytes != 0 {
		t.Fatalf("stats %+v, want delivered %d, dropped %d, expired %d, nothing in logs", st, m.delivered, m.dropped, m.expired)
	}
	for _, p := range m.peers {
		p.Close()
	}
	m.hub.checkEmpty(t)
}

// TestModel compares the hub with the model, step by random step.
func TestModel(t *testing.T) {
	rnd := seeded(t)
	var sum Stats
	forgot := 0
	for range 800 {
		h := New(Options{
			Backplane:        newPlane(),
			Shards:           1 + rnd.IntN(3),
			SubscriberBuffer: 500 + rnd.IntN(20_000),
			BacklogMemory:    int64(15_000 + rnd.IntN(40_000)),
		})
		m := &model{hub: h, rnd: rnd, now: time.Now(), logs: make(map[modelKey]*modelLog)}
		for range rnd.IntN(300) {
			if m.step(t); m.forgets {
				break
			}
		}
		if m.forgets {
			forgot++
			continue
		}
		m.finish(t)
		st := h.Stats()
		sum.Delivered += st.Delivered
		sum.Dropped += st.Dropped
		sum.Expired += st.Expired
	}
	t.Logf("delivered %d, dropped %d, expired %d; %d ended early", sum.Delivered, sum.Dropped, sum.Expired, forgot)
	if sum.Delivered < 1000 || sum.Dropped < 1000 || sum.Expired < 100 {
		t.Error("the steps did not lead anywhere")
	}
}
