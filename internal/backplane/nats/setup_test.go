package nats

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"pubsub"
	"pubsub/internal/backplane/nats/layout"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
)

// wantSame checks that Check finds no difference.
func wantSame(t *testing.T, o Options) {
	t.Helper()
	if ds, none, err := Check(testContext(t), o); err != nil || none || len(ds) != 0 {
		t.Errorf("Check = %+v, %v, %v, want no difference", ds, none, err)
	}
}

// A node that starts with streams of other settings fails with an error that names every
// difference and its remedy. It changes nothing.
func TestWrongSettings(t *testing.T) {
	t.Parallel()
	o := Options{URLs: []string{newServer(t).url()}, Prefix: "x"}
	n := newNode(t, o)
	v := n.put("t", "kept")
	ctx := testContext(t)
	wantSame(t, o)
	right := n.streamConfig()
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
		if _, err := n.client.js.UpdateStream(ctx, wrong); err != nil {
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
	if _, err := n.client.js.UpdateStream(ctx, right); err != nil {
		t.Fatal(err)
	}
	wantSame(t, o)
	n.wantLast("t", pubsub.Version{}, "kept", v)
}

func TestWrongKeysAndStorage(t *testing.T) {
	t.Parallel()
	url := newServer(t).url()
	o := Options{URLs: []string{url}, Prefix: "x"}
	ctx := testContext(t)
	other := newNode(t, Options{URLs: []string{url}, Prefix: "other"})
	wrong := layout.RetainedStream(layout.Names{Prefix: "x"}, 7, 1)
	wrong.Storage = jetstream.MemoryStorage
	if _, err := other.client.js.CreateStream(ctx, wrong); err != nil {
		t.Fatal(err)
	}
	if _, err := other.client.js.CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: "x_keys", History: 1}); err != nil {
		t.Fatal(err)
	}
	ds, _, err := Check(ctx, o)
	if err != nil || len(ds) != 2 || ds[0].Setting != "storage" || ds[1].Setting != "max_msgs_per_subject" || ds[1].Stream != "KV_x_keys" {
		t.Fatalf("Check = %+v, %v", ds, err)
	}
	if !strings.Contains(ds[0].Fix, "cannot change") || !strings.Contains(ds[1].Fix, "nats stream edit KV_x_keys") {
		t.Errorf("the remedies are %q and %q", ds[0].Fix, ds[1].Fix)
	}
	o.Replicas = 3
	if ds, _, err := Check(ctx, o); err != nil || len(ds) != 4 {
		t.Errorf("Check with another number of replicas = %+v, %v", ds, err)
	}
}

// A node refuses a server that does not accept the longest message.
func TestMaxPayloadTooSmall(t *testing.T) {
	t.Parallel()
	s := newServer(t, func(o *server.Options) { o.MaxPayload = 64 << 10 })
	b := open(t, Options{URLs: []string{s.url()}})
	defer b.Close()
	if err := b.Run(testContext(t), pubsub.Receiver{}); !errors.Is(err, ErrServer) {
		t.Errorf("Run = %v, want %v", err, ErrServer)
	}
	if _, _, err := Check(testContext(t), Options{URLs: []string{s.url()}}); !errors.Is(err, ErrServer) {
		t.Errorf("Check = %v, want %v", err, ErrServer)
	}
}

// Streams have three replicas on three servers, unless the option says otherwise.
func TestReplicas(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	for want, o := range map[int]Options{
		3: {URLs: c.urls(), Prefix: "auto"},
		1: {URLs: c.urls(), Prefix: "one", Replicas: 1},
	} {
		n := newNode(t, o)
		for _, stream := range []string{n.stream.name(), n.client.names.KeyStream()} {
			info, err := n.client.streamInfo(testContext(t), stream)
			if err != nil || info.Config.Replicas != want {
				t.Errorf("%s has %d replicas, %v, want %d", stream, info.Config.Replicas, err, want)
			}
		}
		// Without the option, any number is right.
		o.Replicas = 0
		wantSame(t, o)
	}
}

// Brokers with different prefixes share one NATS without any contact.
func TestPrefixes(t *testing.T) {
	t.Parallel()
	url := newServer(t).url()
	a := newNode(t, Options{URLs: []string{url}, Prefix: "a"})
	b := newNode(t, Options{URLs: []string{url}, Prefix: "b"})
	a.subscribe("t")
	b.subscribe("t")
	v, w := a.put("t", "of a"), b.put("t", "of b")
	a.awaitLast("t", "of a", v)
	b.awaitLast("t", "of b", w)
	ctx := testContext(t)
	a.putKey("k", "v")
	if keys, err := b.Keys(ctx); err != nil || len(keys) != 0 {
		t.Errorf("Keys = %d keys, %v, want none", len(keys), err)
	}
	bounded, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	a.control = func(pubsub.ControlMessage) []byte { return []byte("a") }
	if replies, err := b.Gather(bounded, pubsub.ControlMessage{Kind: "k"}); err != nil || len(replies) != 0 {
		t.Errorf("Gather = %q, %v, want no reply", replies, err)
	}
	if a.count("t") != 1 || b.count("t") != 1 {
		t.Errorf("%d and %d messages were delivered, want one each", a.count("t"), b.count("t"))
	}
}

// An operator may bound the stream of retained messages. A full stream keeps its messages and
// refuses new ones at once, with an error that is not transient. On a single server, existing
// messages can still be replaced and cleared.
func TestFullStream(t *testing.T) {
	t.Parallel()
	for name, urls := range map[string][]string{"one server": {newServer(t).url()}, "three servers": newCluster(t, 3).urls()} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, Options{URLs: urls, Prefix: "x"})
			ctx := testContext(t)
			setMaxBytes := func(bytes int64) {
				t.Helper()
				config := n.streamConfig()
				config.MaxBytes = bytes
				if _, err := n.client.js.UpdateStream(ctx, config); err != nil {
					t.Fatal(err)
				}
			}
			const size = 1000
			setMaxBytes(20 * size)
			wantSame(t, n.client.o)
			stored := map[pubsub.Topic]pubsub.Version{}
			var refused error
			for i := 0; refused == nil && i < 20; i++ {
				topic := pubsub.Topic(fmt.Sprint("t", i))
				var v pubsub.Version
				if v, refused = n.tryPut(topic, strings.Repeat("x", size)); refused == nil {
					stored[topic] = v
				}
			}
			if refused == nil || errors.Is(refused, pubsub.ErrUnavailable) || !strings.Contains(refused.Error(), storeFull) {
				t.Fatalf("Put of topic %d = %v", len(stored), refused)
			}
			for topic, v := range stored {
				n.wantLast(topic, pubsub.Version{}, strings.Repeat("x", size), v)
			}
			if len(urls) == 1 {
				n.put("t0", strings.Repeat("y", size))
				n.put("t1", "")
			} else if _, err := n.tryPut("t0", strings.Repeat("y", size)); err == nil || errors.Is(err, pubsub.ErrUnavailable) {
				t.Errorf("replacing a message = %v", err)
			}
			setMaxBytes(-1)
			n.put("another", strings.Repeat("x", size))
		})
	}
}
