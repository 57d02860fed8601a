package nats

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"pubsub"
	"pubsub/internal/testkit"

	natsgo "github.com/nats-io/nats.go"
)

// Records that no release has written, or a later one.
const (
	garbage     = "garbage"
	laterRecord = "\x63of a later release"
	shortRecord = "\x01"
)

// store stores data in a stream that has the subject.
func (n *node) store(subject, data string) {
	n.t.Helper()
	m := natsgo.NewMsg(subject)
	m.Data = []byte(data)
	if _, err := n.client.js.PublishMsg(testContext(n.t), m); err != nil {
		n.t.Fatal(err)
	}
}

// An unreadable record hides no other record, and is reported once.
func TestUnreadableRecords(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	n, j := newWatchedNode(t, s.url())
	ctx := testContext(t)
	n.subscribe("good", "bad", "late")
	v := n.put("good", "v")
	n.putKey("a", "v")
	n.putKey("z", "v")
	names := n.client.names
	n.store(names.Key("bad"), garbage)
	n.store(names.Key("late"), laterRecord)
	n.store(names.Key("short"), shortRecord)
	n.store(strings.TrimSuffix(names.AllKeys(), ">")+"=2e=", garbage) // not the name of any id
	n.store(names.Stored("bad"), "\x00garbage")
	n.store(names.Stored("late"), laterRecord)
	n.store(strings.TrimSuffix(names.AllStored(), ">")+"=2e=", garbage) // not the name of any topic

	another, itsJournal := newWatchedNode(t, s.url())
	for _, one := range []struct {
		node    *node
		journal *journal
	}{{n, j}, {another, itsJournal}} {
		if keys, err := one.node.Keys(ctx); err != nil || len(keys) != 2 || keys[0].ID != "a" || keys[1].ID != "z" {
			t.Errorf("Keys = %+v, %v", keys, err)
		}
		events := watchKeys(t, one.node.Backplane)
		got := []string{events.next(), events.next(), events.next()}
		if slices.Sort(got); !slices.Equal(got, []string{"a=v", "synced", "z=v"}) {
			t.Errorf("key events: %q", got)
		}
		if l, err := one.node.List(ctx, "", "", 10); err != nil || len(l) != 1 || l[0].Topic != "good" {
			t.Errorf("List = %+v, %v", l, err)
		}
		one.node.wantNone("bad")
		one.node.wantNone("late")
		one.node.wantLast("good", pubsub.Version{}, "v", v)
		for _, name := range []string{"key bad", "key late", "key short", "key =2e=", "message bad", "message late"} {
			one.journal.want("unreadable "+name, 1)
		}
	}
	n.awaitResync() // a resync passes the records
	n.publishTo(n, "good", "w")
	// Deleting the key or publishing to the topic removes the record.
	for _, id := range []string{"bad", "late"} {
		if err := n.PutKey(ctx, pubsub.Key{ID: id, Value: "v"}); !errors.Is(err, pubsub.ErrKeyExists) {
			t.Errorf("PutKey(%q) = %v", id, err)
		}
		n.deleteKey(id)
	}
	n.publishTo(n, "bad", "good")
}

// Garbage in place of the record of the generation starts a new generation.
func TestUnreadableGeneration(t *testing.T) {
	t.Parallel()
	n, j := newWatchedNode(t, newServer(t).url())
	n.subscribe("t")
	before := n.put("t", "v")
	n.store(n.client.names.Generation(), garbage)
	testkit.Eventually(t, "a new generation", func() bool {
		_, _, err := n.Last(testContext(t), "t", pubsub.Version{})
		return err == nil && n.stream.epoch.current() != before.Generation
	})
	j.want("unreadable generation ", 1)
	n.awaitLast("t", "w", n.putEventually("t", "w"))
}
