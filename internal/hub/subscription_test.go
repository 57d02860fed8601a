package hub

import (
	"errors"
	"testing"
	"time"

	"pubsub"
)

// Each message is published one second after the previous one. The initial message is
// older than all of them, or it is one of them.
func TestResume(t *testing.T) {
	other := pubsub.Version{Generation: gen + 1, Seq: 9}
	for _, c := range []struct {
		name    string
		initial uint64 // the version of the retained message, or 0
		seen    pubsub.Version
		before  string // published between Subscribe and Resume
		after   string // published after Resume
		want    string
	}{
		{"nothing", 0, pubsub.Version{}, "", "", ""},
		{"nothing retained", 0, pubsub.Version{}, "a r2", "b", "a r2 b"},
		{"initial", 1, pubsub.Version{}, "", "", "*r1"},
		{"initial, with its version as seen", 3, version(3), "", "r3 r4", "*r3 r4"},
		// The client may already know that it subscribes, so no message is skipped.
		{"initial before all", 1, pubsub.Version{}, "a b", "c", "*r1 a b c"},
		{"initial before all, and a newer one", 1, pubsub.Version{}, "a r2", "b", "*r1 a r2 b"},
		{"initial is in the log", 2, pubsub.Version{}, "a r2 b", "r3", "a *r2 b r3"},
		{"initial is in the log, and a newer one", 2, pubsub.Version{}, "a r2 b r3 c", "d", "a *r2 b r3 c d"},
		{"older ones in the log", 2, pubsub.Version{}, "r1 a r2", "b", "r1 a *r2 b"},
		// With seen, the client does not know yet that it subscribes.
		{"seen is in the log", 0, version(5), "a r4 b r5 c", "r6", "c r6"},
		{"seen before all", 0, version(5), "a b", "c r6", "c r6"},
		{"seen before all, and a newer one", 0, version(5), "a r6 b", "c", "r6 b c"},
		{"seen has not arrived yet", 0, version(5), "a r4", "r5 b", "b"},
		{"seen in another generation", 1, other, "", "r2", "*r1 r2"},
		{"seen in another generation, nothing retained", 0, other, "", "r2", "r2"},
		{"newer than seen", 6, version(5), "r5 a r6", "b", "a *r6 b"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := New(Options{Backplane: newBackplane(), Shards: 1})
			p := newPeer(h, "")
			s := p.subscribe(t, "t")
			clock := time.Now()
			var initial *pubsub.PreparedMessage
			if c.initial > 0 {
				initial = retained("t", c.initial)
				initial.Published = clock
			}
			publish := func(script string) {
				for _, pm := range parse("t", script) {
					clock = clock.Add(time.Second)
					pm.Published = clock
					if initial != nil && pm.Version == initial.Version {
						initial.Published = clock
					}
					h.Deliver(pm)
				}
				h.pump()
			}
			publish(c.before)
			if p.isAwake() || p.wakes.Load() != 0 {
				t.Error("woken for a paused subscription")
			}
			s.Resume(initial, c.seen)
			h.check(t)
			if !p.isAwake() || p.wakes.Load() != 1 {
				t.Error("Resume did not wake the subscriber")
			}
			publish(c.after)
			expect(t, p.drain(), c.want)
			h.check(t)
			closeAll(t, h, p)
		})
	}
}

// The initial message has been stored but has not arrived through the log yet. Messages
// published before it keep their position.
func TestResumeBeforeInitialArrives(t *testing.T) {
	h := New(Options{Backplane: newBackplane(), Shards: 1})
	p := newPeer(h, "")
	s := p.subscribe(t, "t")
	start := time.Now()
	at := func(p *pubsub.PreparedMessage, seconds int) *pubsub.PreparedMessage {
		p.Published = start.Add(time.Duration(seconds) * time.Second)
		return p
	}
	h.Deliver(at(plain("t", "a"), 1))
	s.Resume(at(retained("t", 2), 2), pubsub.Version{})
	h.Deliver(at(retained("t", 2), 2))
	h.Deliver(at(plain("t", "b"), 3))
	h.pump()
	expect(t, p.drain(), "a *r2 b")
	h.check(t)
}

// Messages cut while the subscription was paused are reported as dropped, and the newest
// retained message follows the initial one.
func TestResumeAfterCut(t *testing.T) {
	for _, c := range []struct {
		initial uint64
		seen    pubsub.Version
		before  string
		want    string
	}{
		{1, pubsub.Version{}, "a b c d e", "*r1 -2c d e"},
		{1, pubsub.Version{}, "a r2 b c d e", "*r1 -2r2 c d e"},
		{2, pubsub.Version{}, "a r2 b c d e", "*r2 -2c d e"},
		{0, version(2), "a r2 b c d e", "c d e"},
		{0, version(1), "a r2 b c d e", "-2r2 c d e"},
		{0, version(1), "a b c d e", ""},
	} {
		h := New(Options{Backplane: newBackplane(), Shards: 1, SubscriberBuffer: room(3)})
		p := newPeer(h, "")
		s := p.subscribe(t, "t")
		for i, pm := range parse("t", c.before) {
			pm.Published = time.Unix(int64(100+i), 0)
			h.Deliver(pm)
		}
		var initial *pubsub.PreparedMessage
		if c.initial > 0 {
			initial = retained("t", c.initial)
			initial.Published = time.Unix(int64(98+c.initial), 0)
		}
		s.Resume(initial, c.seen)
		h.check(t)
		expect(t, p.drain(), c.want)
		h.check(t)
	}
}

// A client that subscribes again receives the retained message again, but never one that
// is older than the last (MQTT 5.0 section 3.8.4, Retain Handling 0).
func TestSubscribeAgain(t *testing.T) {
	h := New(Options{Backplane: newBackplane(), Shards: 1})
	p := newPeer(h, "")
	s := p.resume(t, "t")
	again := func(initial *pubsub.PreparedMessage, want string) {
		t.Helper()
		if p.subscribe(t, "t") != s {
			t.Fatal("Subscribe returned another subscription")
		}
		s.Resume(initial, pubsub.Version{})
		expect(t, p.drain(), want)
	}
	again(retained("t", 3), "*r3")
	again(retained("t", 3), "*r3")
	again(nil, "")
	deliver(h, "t", "r4")
	again(retained("t", 3), "*r3 r4") // r4 was not read when it subscribed again
	again(retained("t", 3), "")       // r4 was already read, and the store returned an older one
	again(retained("t", 4), "*r4")
	h.Deliver(retained("t", 4))
	h.pump()
	expect(t, p.drain(), "") // a resync delivers it again
	restored := pubsub.NewPreparedMessage(pubsub.Message{Topic: "t", Data: []byte("new"), Retain: true,
		Version: pubsub.Version{Generation: gen + 1, Seq: 1}})
	again(restored, "*new")
	if n := h.Stats().Subscriptions; n != 1 {
		t.Errorf("%d subscriptions, want 1", n)
	}
}

func TestLast(t *testing.T) {
	b := newBackplane()
	b.retained["t"] = retained("t", 5).Message
	h := New(Options{Backplane: b})
	s := newPeer(h, "").subscribe(t, "t")
	if p, v, err := s.Last(t.Context(), pubsub.Version{}); err != nil || p == nil || string(p.Data) != "r5" || v != version(5) {
		t.Errorf("Last = %v, %v, %v; want r5", p, v, err)
	}
	if p, v, err := s.Last(t.Context(), version(5)); err != nil || p != nil || v != version(5) {
		t.Errorf("Last after the newest = %v, %v, %v; want nothing newer", p, v, err)
	}
	b.lastErr = errors.New("no store")
	if p, _, err := s.Last(t.Context(), pubsub.Version{}); !errors.Is(err, b.lastErr) || p != nil {
		t.Errorf("Last = %v, %v; want the store's error", p, err)
	}
}
