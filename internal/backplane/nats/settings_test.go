package nats

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"pubsub"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
)

func TestCheckServer(t *testing.T) {
	for version, want := range map[string]bool{
		"2.11.17": false, "2.12.8": false, "2.12.9": true, "2.12.15": true, "2.14.0": false, "2.14.1": true,
		"2.15.0": true, "2.15.0-RC.1": true, "3.0.0": true, "1.99.99": false, "2.10.0": false, "": false, "2.14": false, "dev": false,
	} {
		err := checkServer(version, 1<<20, 32512)
		if (err == nil) != want {
			t.Errorf("release %q: %v, want good %v", version, err, want)
		}
		if err != nil && !errors.Is(err, ErrServer) {
			t.Errorf("release %q: %v is not %v", version, err, ErrServer)
		}
	}
	if err := checkServer("2.15.2", 1<<20, 1<<20); !errors.Is(err, ErrServer) || !strings.Contains(err.Error(), "max_payload") {
		t.Errorf("a server that takes only messages as large as ours: %v", err)
	}
	if err := checkServer("2.15.2", controlRoom-1, 32512); !errors.Is(err, ErrServer) {
		t.Errorf("a server that does not take the longest message between nodes: %v", err)
	}
	if err := checkServer(server.VERSION, 1<<20, 32512); err != nil {
		t.Errorf("the release of these tests: %v", err)
	}
}

// What is wrong with the streams that are there is named, all of it, with what to
// do; the start fails, and nothing is changed.
func TestWrongSettings(t *testing.T) {
	s := newServer(t)
	o := Options{URLs: []string{s.url()}, Prefix: "x"}
	n := newNode(t, o)
	v := n.put("t", "kept")
	ctx := ctxFor(t)
	if ds, _, err := Check(ctx, o); err != nil || len(ds) != 0 {
		t.Fatalf("Check of what was made = %+v, %v", ds, err)
	}
	info, err := n.link.info(ctx)
	if err != nil {
		t.Fatal(err)
	}
	right := info.Config
	for name, test := range map[string]struct {
		change func(c *jetstream.StreamConfig)
		want   []string // settings
	}{
		"one": {func(c *jetstream.StreamConfig) { c.MaxAge = time.Hour }, []string{"max_age"}},
		"many": {func(c *jetstream.StreamConfig) {
			c.MaxMsgsPerSubject = 2
			c.MaxMsgs, c.MaxBytes, c.Discard = 1000, 1<<30, jetstream.DiscardOld
			c.AllowDirect = false
			c.SubjectDeleteMarkerTTL, c.AllowRollup = time.Minute, true
			c.Duplicates = time.Second
			c.RePublish = nil
		}, []string{"discard", "max_msgs", "max_msgs_per_subject", "allow_direct", "subject_delete_marker_ttl", "duplicate_window", "republish"}},
		"subjects":  {func(c *jetstream.StreamConfig) { c.Subjects = append(c.Subjects, "other") }, []string{"subjects"}},
		"republish": {func(c *jetstream.StreamConfig) { c.RePublish.HeadersOnly = true }, []string{"republish"}},
		"discard":   {func(c *jetstream.StreamConfig) { c.MaxBytes, c.Discard = 1<<20, jetstream.DiscardOld }, []string{"discard"}},
	} {
		wrong := right
		republish := *right.RePublish
		wrong.RePublish = &republish
		test.change(&wrong)
		if _, err := n.link.js.UpdateStream(ctx, wrong); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		ds, _, err := Check(ctx, o)
		if err != nil {
			t.Fatal(err)
		}
		var settings []string
		for _, d := range ds {
			settings = append(settings, d.Setting)
			if d.Stream != "x_retained" || d.Fix == "" || d.Want == d.Have {
				t.Errorf("%s: difference %+v", name, d)
			}
		}
		if strings.Join(settings, " ") != strings.Join(test.want, " ") {
			t.Errorf("%s: the settings that differ are %q, want %q", name, settings, test.want)
		}
		another := open(t, o)
		err = another.Run(ctx, pubsub.Receiver{})
		var e *SettingsError
		if !errors.As(err, &e) || !errors.Is(err, ErrSettings) || len(e.Differences) != len(test.want) {
			t.Errorf("%s: Run = %v", name, err)
		}
		for _, w := range test.want {
			if err != nil && !strings.Contains(err.Error(), w) {
				t.Errorf("%s: the error does not name %s: %v", name, w, err)
			}
		}
		if _, err := another.Put(ctx, retainedMessage("t", "x"))(); !errors.Is(err, ErrSettings) {
			t.Errorf("%s: Put = %v", name, err)
		}
		if _, _, err := another.Last(ctx, "t", pubsub.Version{}); !errors.Is(err, ErrSettings) {
			t.Errorf("%s: Last = %v", name, err)
		}
		if err := another.Health(ctx); !errors.Is(err, ErrSettings) {
			t.Errorf("%s: Health = %v", name, err)
		}
		if err := another.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := n.link.js.UpdateStream(ctx, right); err != nil {
		t.Fatal(err)
	}
	if ds, _, err := Check(ctx, o); err != nil || len(ds) != 0 {
		t.Errorf("Check of what was put right = %+v, %v", ds, err)
	}
	if m, ok, err := n.Last(ctx, "t", pubsub.Version{}); err != nil || !ok || m.Version != v {
		t.Errorf("Last = %v, %v, %v, want %v", m.Version, ok, err, v)
	}
}

func TestWrongKeysAndStorage(t *testing.T) {
	s := newServer(t)
	o := Options{URLs: []string{s.url()}, Prefix: "x"}
	ctx := ctxFor(t)
	other := newNode(t, Options{URLs: []string{s.url()}, Prefix: "other"})
	wrong := retainedSettings(names{"x"}, 7, 1)
	wrong.Storage = jetstream.MemoryStorage
	if _, err := other.link.js.CreateStream(ctx, wrong); err != nil {
		t.Fatal(err)
	}
	if _, err := other.link.js.CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: "x_keys", History: 1}); err != nil {
		t.Fatal(err)
	}
	ds, _, err := Check(ctx, o)
	if err != nil || len(ds) != 2 || ds[0].Setting != "storage" || ds[1].Setting != "max_msgs_per_subject" || ds[1].Stream != "KV_x_keys" {
		t.Fatalf("Check = %+v, %v", ds, err)
	}
	if !strings.Contains(ds[0].Fix, "cannot change") || !strings.Contains(ds[1].Fix, "nats stream edit KV_x_keys") {
		t.Errorf("what to do is %q and %q", ds[0].Fix, ds[1].Fix)
	}
	o.Replicas = 3
	if ds, _, err := Check(ctx, o); err != nil || len(ds) != 4 {
		t.Errorf("Check with another number of replicas = %+v, %v", ds, err)
	}
}

// A server that cannot take the longest message is refused.
func TestServerTakesTooLittle(t *testing.T) {
	s := newServer(t, func(o *server.Options) { o.MaxPayload = 64 << 10 })
	b := open(t, Options{URLs: []string{s.url()}})
	defer b.Close()
	if err := b.Run(ctxFor(t), pubsub.Receiver{}); !errors.Is(err, ErrServer) {
		t.Errorf("Run = %v, want %v", err, ErrServer)
	}
	if _, _, err := Check(ctxFor(t), Options{URLs: []string{s.url()}}); !errors.Is(err, ErrServer) {
		t.Errorf("Check = %v, want %v", err, ErrServer)
	}
}

// Three servers keep three copies, one keeps one, unless it is set.
func TestReplicas(t *testing.T) {
	c := newCluster(t, 3)
	for want, o := range map[int]Options{
		3: {URLs: c.urls(), Prefix: "auto"},
		1: {URLs: c.urls(), Prefix: "one", Replicas: 1},
	} {
		n := newNode(t, o)
		for _, stream := range []string{n.link.names.stream(), n.link.names.keysStream()} {
			info, err := n.link.infoOf(ctxFor(t), stream)
			if err != nil || info.Config.Replicas != want {
				t.Errorf("%s has %d replicas, %v, want %d", stream, info.Config.Replicas, err, want)
			}
		}
		// Who does not set it takes what is there.
		o.Replicas = 0
		if ds, _, err := Check(ctxFor(t), o); err != nil || len(ds) != 0 {
			t.Errorf("Check = %+v, %v", ds, err)
		}
	}
}

// Several brokers share one NATS, and know nothing of each other.
func TestPrefixesKeepApart(t *testing.T) {
	s := newServer(t)
	a := newNode(t, Options{URLs: []string{s.url()}, Prefix: "a"})
	b := newNode(t, Options{URLs: []string{s.url()}, Prefix: "b"})
	a.want("t")
	b.want("t")
	v, w := a.put("t", "of a"), b.put("t", "of b")
	a.ends("t", "of a", v)
	b.ends("t", "of b", w)
	ctx := ctxFor(t)
	if err := a.PutKey(ctx, pubsub.Key{ID: "k", Value: "v"}); err != nil {
		t.Fatal(err)
	}
	if keys, err := b.Keys(ctx); err != nil || len(keys) != 0 {
		t.Errorf("Keys = %d keys, %v", len(keys), err)
	}
	within, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	a.control = func(pubsub.ControlMessage) []byte { return []byte("a") }
	if replies, err := b.Gather(within, pubsub.ControlMessage{Kind: "k"}); err != nil || len(replies) != 0 {
		t.Errorf("Ask = %q, %v", replies, err)
	}
	if a.count("t") != 1 || b.count("t") != 1 {
		t.Errorf("%d and %d messages, want one each", a.count("t"), b.count("t"))
	}
}

// An operator may bound the stream of retained messages. A full one refuses what is
// new at once, as nothing that passes by itself, and keeps what it has; what is
// retained can still be replaced and cleared, unless several servers keep it.
func TestFullStream(t *testing.T) {
	for name, urls := range map[string][]string{"one server": {newServer(t).url()}, "three servers": newCluster(t, 3).urls()} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, Options{URLs: urls, Prefix: "x"})
			ctx := ctxFor(t)
			bound := func(bytes int64) {
				t.Helper()
				info, err := n.link.info(ctx)
				if err == nil {
					info.Config.MaxBytes = bytes
					_, err = n.link.js.UpdateStream(ctx, info.Config)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			const size = 1000
			bound(20 * size)
			if ds, _, err := Check(ctx, n.link.o); err != nil || len(ds) != 0 {
				t.Fatalf("Check = %+v, %v", ds, err)
			}
			var kept []pubsub.Topic
			var refused error
			for i := 0; refused == nil && i < 20; i++ {
				topic := pubsub.Topic(fmt.Sprint("t", i))
				if _, refused = n.Put(ctx, retainedMessage(topic, strings.Repeat("x", size)))(); refused == nil {
					kept = append(kept, topic)
				}
			}
			if refused == nil || errors.Is(refused, pubsub.ErrUnavailable) || !strings.Contains(refused.Error(), storeFull) {
				t.Fatalf("Put of topic %d = %v", len(kept), refused)
			}
			for _, topic := range kept {
				if m, ok, err := n.Last(ctx, topic, pubsub.Version{}); err != nil || !ok || len(m.Data) != size {
					t.Errorf("Last(%q) = %d bytes, %v, %v", topic, len(m.Data), ok, err)
				}
			}
			if len(urls) == 1 {
				n.put(kept[0], strings.Repeat("y", size))
				n.put(kept[1], "")
			} else if _, err := n.Put(ctx, retainedMessage(kept[0], strings.Repeat("y", size)))(); err == nil || errors.Is(err, pubsub.ErrUnavailable) {
				t.Errorf("replacing = %v", err)
			}
			bound(-1)
			n.put("another", strings.Repeat("x", size))
		})
	}
}
