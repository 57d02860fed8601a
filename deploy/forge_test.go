package deploy

import (
	"slices"
	"strings"
	"testing"
	"time"

	"pubsub"
	"pubsub/internal/testkit"

	"github.com/nats-io/nats-server/v2/server"
	natsgo "github.com/nats-io/nats.go"
)

// TestOthersCannotForge checks that only nodes can publish to the subjects where messages are
// stored and delivered. Other users of the account have no permission, and other accounts
// do not reach the broker. A user without limits could forge messages.
func TestOthersCannotForge(t *testing.T) {
	s, v := newServer(t, "nats/nats.conf", variables("n1"), func(o *server.Options) {
		node := nodeUser(t, o)
		elsewhere := server.NewAccount("ELSEWHERE")
		o.Accounts = append(o.Accounts, elsewhere)
		may := &server.Permissions{Publish: &server.SubjectPermission{Allow: []string{"app.>", "$JS.API.INFO"}}}
		o.Users = append(o.Users,
			&server.User{Username: "other", Password: "x", Account: node.Account, Permissions: may},
			&server.User{Username: "stranger", Password: "x", Account: elsewhere})
	})
	n, ctx := startNode(t, s)
	if err := n.Subscribe(ctx, "t"); err != nil {
		t.Fatal(err)
	}
	defer n.Unsubscribe("t")

	// The operator, who may do everything, records a message on its way.
	admin, other, stranger := operator(t, s), connect(t, s, "other", "x"), connect(t, s, "stranger", "x")
	record, err := admin.SubscribeSync("pubsub.l.>")
	if err != nil {
		t.Fatal(err)
	}
	overheard, err := stranger.SubscribeSync(">")
	if err != nil {
		t.Fatal(err)
	}
	for _, nc := range []*natsgo.Conn{admin, stranger} {
		if err := nc.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	if err := n.Send(ctx, pubsub.Message{Topic: "t", Data: []byte("genuine"), Published: time.Now()}); err != nil {
		t.Fatal(err)
	}
	message, err := record.NextMsgWithContext(ctx)
	if err != nil {
		t.Fatal(err)
	}
	forged := slices.Concat(message.Data[:len(message.Data)-len("genuine")], []byte("forged!"))
	live := []string{message.Subject, "pubsub.l.0123456789ABCDEF.t", "pubsub.s.t", "pubsub.g", "pubsub.c"}
	for _, nc := range []*natsgo.Conn{other, stranger} {
		for _, subject := range live {
			if err := nc.Publish(subject, forged); err != nil {
				t.Fatal(err)
			}
		}
		if err := nc.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	if lines := v.all(); len(lines) != len(live) {
		t.Errorf("%d of %d forged messages are refused: %q", len(lines), len(live), lines)
	}
	// A later message arrives, and the forged ones have not.
	if err := n.Send(ctx, pubsub.Message{Topic: "t", Data: []byte("last"), Published: time.Now()}); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "the last message", func() bool { return n.has("last", pubsub.Version{}) })
	if n.has("forged!", pubsub.Version{}) {
		t.Error("a message was forged without permission")
	}
	if _, ok, err := n.Last(ctx, "t", pubsub.Version{}); ok || err != nil {
		t.Errorf("a retained message was forged: %v, %v", ok, err)
	}
	for { // the stranger receives only its own messages
		m, err := overheard.NextMsg(100 * time.Millisecond)
		if err != nil {
			break
		}
		if string(m.Data) != string(forged) {
			t.Errorf("another account receives %s", m.Subject)
		}
	}
	if err := admin.Publish(message.Subject, forged); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "a message forged by the operator", func() bool { return n.has("forged!", pubsub.Version{}) })
}

// TestNeighbourHearsNoReplies checks that a second broker in the same account, with its own
// prefix and permissions, works and cannot receive the replies to nodes of the first, which
// contain signing keys.
func TestNeighbourHearsNoReplies(t *testing.T) {
	s, v := newServer(t, "nats/nats.conf", variables("n1"), func(o *server.Options) {
		node := nodeUser(t, o)
		renamed := func(subjects []string) (all []string) {
			for _, subject := range subjects {
				all = append(all, strings.ReplaceAll(subject, "pubsub", "neighbour"))
			}
			return all
		}
		o.Users = append(o.Users, &server.User{Username: "neighbour", Password: "x", Account: node.Account, Permissions: &server.Permissions{
			Publish:   &server.SubjectPermission{Allow: renamed(node.Permissions.Publish.Allow)},
			Subscribe: &server.SubjectPermission{Allow: renamed(node.Permissions.Subscribe.Allow)},
		}})
	})
	n, ctx := startNode(t, s)
	o := nodeOptions(t, s)
	o.Prefix, o.User, o.Password = "neighbour", "neighbour", "x"
	if err := exercise(ctx, t, s, o); err != nil {
		t.Errorf("the neighbour: %v", err)
	}
	if lines := v.all(); len(lines) > 0 {
		t.Errorf("violations of normal work: %q", lines)
	}

	listen := func(nc *natsgo.Conn, subjects ...string) chan *natsgo.Msg {
		heard := make(chan *natsgo.Msg, 1000)
		for _, subject := range subjects {
			if _, err := nc.ChanSubscribe(subject, heard); err != nil {
				t.Fatal(err)
			}
		}
		if err := nc.Flush(); err != nil {
			t.Fatal(err)
		}
		return heard
	}
	refused := []string{"pubsub.i.>", "*.i.>", "pubsub.>", "_INBOX.>", ">"}
	neighbour, admin := connect(t, s, "neighbour", "x"), operator(t, s)
	heard := listen(neighbour, append(refused, "neighbour.i.>")...)
	overheard := listen(admin, "pubsub.i.>")
	if err := n.PutKey(ctx, pubsub.Key{ID: "k", Value: "secret", Created: time.Now()}); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Key(ctx, "k"); err != nil {
		t.Fatal(err)
	}
	if keys, err := n.Keys(ctx); err != nil || len(keys) != 1 {
		t.Fatalf("Keys: %d, %v", len(keys), err)
	}
	// The operator receives the key, so there was a reply to overhear.
	for {
		var m *natsgo.Msg
		select {
		case m = <-overheard:
		case <-ctx.Done():
			t.Fatal("the operator does not receive the key")
		}
		if strings.Contains(string(m.Data), "secret") {
			break
		}
	}
	if err := neighbour.Flush(); err != nil { // so all messages to it have arrived
		t.Fatal(err)
	}
	if len(heard) > 0 {
		t.Errorf("the neighbour receives %s", (<-heard).Subject)
	}
	if lines := v.all(); len(lines) != len(refused) {
		t.Errorf("%d of %d subscriptions are refused: %q", len(lines), len(refused), lines)
	}
}
