package hub

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pubsub"
)

func (m *model) topic() pubsub.Topic { return pubsub.Topic(fmt.Sprint("t", m.rnd.IntN(4))) }

func (m *model) message(topic pubsub.Topic) *pubsub.PreparedMessage {
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

// version returns the newest version or an older one.
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
		if s.real == real { // subscribed again
			s.opts = opts
			m.resume(s)
			return
		}
	}
	k := modelKey{p.shard, topic}
	if m.logs[k] == nil {
		m.logs[k] = &modelLog{}
	}
	l := m.logs[k]
	s := &modelSub{peer: p, log: l, real: real, pos: len(l.all), opts: opts, paused: true}
	l.subs = append(l.subs, s)
	p.subs = append(p.subs, s)
}

func (m *model) resume(s *modelSub) {
	var initial *pubsub.PreparedMessage
	var seen pubsub.Version
	if m.rnd.IntN(2) == 0 {
		initial = m.message(s.real.Topic())
		initial.Retain = true
		initial.Version = m.version()
		initial.Published = m.now.Add(-time.Duration(m.rnd.IntN(5000)) * time.Millisecond)
	}
	if m.rnd.IntN(2) == 0 {
		seen = m.version()
	}
	if initial != nil {
		s.initial, s.initialAt = initial, m.initialPos(s, initial)
	} else if s.paused && !seen.IsZero() {
		s.pos, _ = m.findVersion(s, seen)
		s.log.compact()
	}
	if seen.Newer(s.seen) {
		s.seen = seen
	}
	s.paused = false
	s.real.Resume(initial, seen)
}

// readOne makes p read one piece and compares it with the model.
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
	if m.trim(); m.overflowed {
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
	action := m.rnd.IntN(20)
	if len(m.peers) == 0 {
		action = 8
	}
	switch action {
	case 0, 1, 2, 3, 4, 5, 6, 7:
		p := m.message(m.topic())
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
			m.resume(s)
		}
	case 13:
		if s := pickSub(); s != nil {
			if !s.peer.Unsubscribe(s.real.Topic()) {
				t.Fatal("Unsubscribe reports that there is no subscription")
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
	default: // reads are rarer than messages, so most subscribers are slow
		if p := pick(); p.isAwake() {
			m.readOne(t, p)
		}
	}
	m.hub.check(t)
	if m.overflowed {
		return
	}
	if got, want := m.hub.backlog.bytes.Load(), m.bytes(); got != want {
		t.Fatalf("backlog of %d bytes, want %d", got, want)
	}
}

// finish makes all subscribers read everything and leave.
func (m *model) finish(t *testing.T) {
	m.hub.pump()
	for _, p := range m.peers {
		for _, s := range p.subs {
			if s.paused {
				m.resume(s)
			}
			if s.pos < len(s.log.all) && !p.isAwake() {
				t.Fatal("a subscriber with unread messages was not woken")
			}
		}
		if p.isAwake() {
			for !m.readOne(t, p) {
			}
		}
		for _, s := range p.subs {
			if s.pos < len(s.log.all) || s.initial != nil {
				t.Fatal("a subscriber with unread messages is asleep")
			}
		}
	}
	m.hub.check(t)
	st := m.hub.Stats()
	if st.Delivered != m.delivered || st.Dropped != m.dropped || st.Expired != m.expired || st.BacklogBytes != 0 {
		t.Fatalf("stats %+v, want delivered %d, dropped %d, expired %d, no backlog", st, m.delivered, m.dropped, m.expired)
	}
	for _, p := range m.peers {
		p.Close()
	}
	m.hub.checkEmpty(t)
}

// The hub does the same as the model in random sequences of steps.
func TestModel(t *testing.T) {
	rnd := newRand(t)
	var sum Stats
	forgot := 0
	for range 800 {
		h := New(Options{
			Backplane:        newBackplane(),
			Shards:           1 + rnd.IntN(3),
			SubscriberBuffer: 500 + rnd.IntN(20_000),
			BacklogMemory:    int64(15_000 + rnd.IntN(40_000)),
		})
		m := &model{hub: h, rnd: rnd, now: time.Now(), logs: make(map[modelKey]*modelLog)}
		for range rnd.IntN(300) {
			if m.step(t); m.overflowed {
				break
			}
		}
		if m.overflowed {
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
		t.Error("the steps test too little")
	}
}
