package deploy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pubsub"
	"pubsub/internal/backplane/backplanetest"
	backplane "pubsub/internal/backplane/nats"

	"github.com/nats-io/nats-server/v2/server"
	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// The streams of a broker with the default prefix.
var streams = []string{"pubsub_retained", "KV_pubsub_keys"}

// A cluster as nats.conf makes it has the whole backplane work for nodes that may
// do no more than accounts.conf lets them.
func TestConformance(t *testing.T) {
	c := newCluster(t, "nats/nats.conf", nil)
	for _, s := range c.servers {
		if o := s.JetStreamConfig(); o == nil || !o.SyncAlways {
			t.Errorf("server %s acknowledges what is not on its disk: %+v", s.Name(), o)
		}
	}
	nc := operator(t, c.servers[0])
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	open := func(t *testing.T, nodes int) (bs []pubsub.Backplane) {
		for _, name := range streams { // those of the test before
			if err := js.DeleteStream(t.Context(), name); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
				t.Fatal(err)
			}
		}
		for i := range nodes {
			b, err := backplane.Open(nodeOptions(t, c.servers[i%len(c.servers)]))
			if err != nil {
				t.Fatal(err)
			}
			bs = append(bs, b)
		}
		return bs
	}
	backplanetest.Run(t, func(t *testing.T) pubsub.Backplane { return open(t, 1)[0] })
	t.Run("Nodes", func(t *testing.T) { backplanetest.RunNodes(t, open) })
	for _, line := range c.all() {
		t.Errorf("a permission is missing: %s", line)
	}
}

// permission is one line of accounts.conf.
type permission struct {
	publish bool
	subject string
}

func (p permission) String() string {
	if p.publish {
		return "publish " + p.subject
	}
	return "subscribe " + p.subject
}

// nodeUser returns the user of the nodes.
func nodeUser(t testing.TB, o *server.Options) *server.User {
	t.Helper()
	for _, u := range o.Users {
		if u.Username == "node" {
			return u
		}
	}
	t.Fatal("accounts.conf has no user node")
	return nil
}

// permissions returns what accounts.conf lets a node do.
func permissions(t testing.TB) (all []permission) {
	t.Helper()
	p := nodeUser(t, load(t, "nats/nats.conf", variables("n1"))).Permissions
	for _, s := range p.Publish.Allow {
		all = append(all, permission{true, s})
	}
	for _, s := range p.Subscribe.Allow {
		all = append(all, permission{false, s})
	}
	return all
}

// Nothing in accounts.conf is there in vain: without any one of the permissions, a
// node tries to do what it may not; with all of them, never.
func TestEveryPermissionIsNeeded(t *testing.T) {
	all := permissions(t)
	if len(all) < 10 {
		t.Fatalf("accounts.conf has %d permissions: too few to be true", len(all))
	}
	t.Run("none missing", func(t *testing.T) {
		t.Parallel()
		s, v := newServer(t, "nats/nats.conf", variables("n1"), nil)
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		if err := exercise(ctx, t, s, nodeOptions(t, s)); err != nil {
			t.Error(err)
		}
		for _, line := range v.all() {
			t.Errorf("a permission is missing: %s", line)
		}
	})
	for _, missing := range all {
		t.Run(missing.String(), func(t *testing.T) {
			t.Parallel()
			s, v := newServer(t, "nats/nats.conf", variables("n1"), func(o *server.Options) {
				p := nodeUser(t, o).Permissions
				if missing.publish {
					p.Publish.Allow = slices.DeleteFunc(p.Publish.Allow, func(s string) bool { return s == missing.subject })
				} else {
					p.Subscribe.Allow = slices.DeleteFunc(p.Subscribe.Allow, func(s string) bool { return s == missing.subject })
				}
			})
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			go func() {
				select {
				case <-v.first:
					cancel()
				case <-ctx.Done():
				}
			}()
			err := exercise(ctx, t, s, nodeOptions(t, s))
			lines := v.all()
			if len(lines) == 0 {
				t.Fatalf("no node misses it; what they do ends with %v", err)
			}
			// What was refused is what is missing, and nothing else.
			kind := map[bool]string{true: "Publish", false: "Subscription"}[missing.publish]
			for _, line := range lines {
				_, rest, _ := strings.Cut(line, kind+" Violation - Subject \"")
				subject, _, ok := strings.Cut(rest, `"`)
				if !ok || !server.SubjectsCollide(subject, missing.subject) {
					t.Errorf("something else is refused: %s", line)
				}
			}
		})
	}
}

// exercise does with nodes on s that are as o says what the nodes of a broker do,
// until all of it has been seen to work.
func exercise(ctx context.Context, t testing.TB, s *server.Server, o backplane.Options) error {
	o.SyncInterval = 200 * time.Millisecond
	var nodes []*runningNode
	defer func() {
		for _, n := range nodes {
			n.stop()
		}
	}()
	for range 2 {
		n, err := newNode(ctx, o)
		if err != nil {
			return err
		}
		nodes = append(nodes, n)
	}
	a, b := nodes[0], nodes[1]
	stream := cmp.Or(o.Prefix, "pubsub") + "_retained"
	if err := b.Subscribe(ctx, "t"); err != nil {
		return fmt.Errorf("Subscribe: %w", err)
	}
	defer b.Unsubscribe("t")
	for _, step := range []func() error{
		func() error { return exerciseMessages(ctx, a, b) },
		func() error { return exerciseResync(ctx, a, b) },
		func() error { return exerciseControl(ctx, a) },
		func() error {
			o.SyncInterval = time.Hour // a watch that finds itself behind begins anew
			n, err := newNode(ctx, o)
			if err != nil {
				return err
			}
			nodes = append(nodes, n)
			return exerciseKeys(ctx, a, n)
		},
		func() error { return exerciseNewGeneration(ctx, operator(t, s), stream, a, b) },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// runningNode is a backplane that runs, with what it has delivered.
type runningNode struct {
	*backplane.Backplane
	ended chan error

	mu        sync.Mutex
	delivered []pubsub.Message // guarded by mu
}

func newNode(ctx context.Context, o backplane.Options) (*runningNode, error) {
	b, err := backplane.Open(o)
	if err != nil {
		return nil, err
	}
	n := &runningNode{Backplane: b, ended: make(chan error, 1)}
	ready := make(chan struct{})
	go func() {
		n.ended <- b.Run(context.Background(), pubsub.Receiver{
			Ready: func() { close(ready) },
			Deliver: func(p *pubsub.PreparedMessage) {
				n.mu.Lock()
				defer n.mu.Unlock()
				n.delivered = append(n.delivered, p.Message)
			},
			Control: func(c pubsub.ControlMessage) []byte { return c.Body },
		})
	}()
	select {
	case <-ready:
		return n, nil
	case err = <-n.ended:
		n.ended <- err
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	n.stop()
	return nil, fmt.Errorf("the node does not get ready: %w", err)
}

func (n *runningNode) stop() {
	n.Close()
	<-n.ended
}

// has reports whether a message has been delivered.
func (n *runningNode) has(data string, v pubsub.Version) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.ContainsFunc(n.delivered, func(m pubsub.Message) bool { return string(m.Data) == data && m.Version == v })
}

func (n *runningNode) put(ctx context.Context, data string) (pubsub.Version, error) {
	return n.Put(ctx, pubsub.Message{Topic: "t", Data: []byte(data), Retain: true, Published: time.Now()})()
}

func exerciseMessages(ctx context.Context, a, b *runningNode) error {
	v, err := a.put(ctx, "retained")
	if err != nil {
		return fmt.Errorf("Put: %w", err)
	}
	if err := await(ctx, "a retained message", func() bool { return b.has("retained", v) }); err != nil {
		return err
	}
	if _, ok, err := b.Last(ctx, "t", pubsub.Version{}); err != nil || !ok {
		return fmt.Errorf("Last: %v, %v", ok, err)
	}
	if l, err := b.List(ctx, "", "", 10); err != nil || len(l) != 1 {
		return fmt.Errorf("List: %v, %v", l, err)
	}
	return await(ctx, "a plain message", func() bool {
		m := pubsub.Message{Topic: "t", Data: []byte("plain"), Published: time.Now()}
		err = a.Send(ctx, m)
		return err != nil || b.has("plain", pubsub.Version{})
	})
}

// exerciseResync waits for a resync of b after a message has changed.
func exerciseResync(ctx context.Context, a, b *runningNode) error {
	if _, err := a.put(ctx, "resynced"); err != nil {
		return err
	}
	begun := b.Stats().Resyncs
	return await(ctx, "a resync", func() bool { return b.Stats().Resyncs >= begun+2 })
}

func exerciseControl(ctx context.Context, a *runningNode) error {
	return await(ctx, "the replies of both nodes", func() bool {
		within, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		replies, err := a.Gather(within, pubsub.ControlMessage{Kind: "k", Body: []byte("x")})
		return err == nil && len(replies) == 2
	})
}

// exerciseKeys puts more keys than JetStream sends to a watch without hearing of
// it, which controls its flow.
func exerciseKeys(ctx context.Context, a, b *runningNode) error {
	const n = 40
	key := func(i int) pubsub.Key {
		return pubsub.Key{ID: fmt.Sprint("key", i), Value: strings.Repeat("v", 60<<10), Created: time.Now()}
	}
	watching, stop := context.WithCancel(ctx)
	changes := make(chan pubsub.KeyEvent, 2*n)
	var watch sync.WaitGroup
	watch.Go(func() { b.WatchKeys(watching, func(c pubsub.KeyEvent) { changes <- c }) })
	defer watch.Wait()
	defer stop()
	await := func(what string, ok func(pubsub.KeyEvent) bool) error {
		for {
			select {
			case c := <-changes:
				if ok(c) {
					return nil
				}
			case <-ctx.Done():
				return fmt.Errorf("waiting for %s: %w", what, context.Cause(ctx))
			}
		}
	}
	if err := await("the beginning", func(c pubsub.KeyEvent) bool { return c.Synced }); err != nil {
		return err
	}
	for i := range n {
		if err := a.PutKey(ctx, key(i)); err != nil {
			return fmt.Errorf("PutKey: %w", err)
		}
	}
	if err := b.PutKey(ctx, key(0)); !errors.Is(err, pubsub.ErrKeyExists) {
		return fmt.Errorf("PutKey of one that is there: %v", err)
	}
	if keys, err := b.Keys(ctx); err != nil || len(keys) != n {
		return fmt.Errorf("Keys: %d, %v", len(keys), err)
	}
	if _, err := b.Key(ctx, "key0"); err != nil {
		return fmt.Errorf("Key: %w", err)
	}
	told := 0
	if err := await("all keys", func(pubsub.KeyEvent) bool { told++; return told == n }); err != nil {
		return err
	}
	if err := a.DeleteKey(ctx, "key0"); err != nil {
		return fmt.Errorf("DeleteKey: %w", err)
	}
	return await("a deletion", func(c pubsub.KeyEvent) bool { return c.Deleted && c.Key.ID == "key0" })
}

// exerciseNewGeneration makes the stream anew as it was, as somebody would who
// restores it from too old a copy: the nodes begin a new generation.
func exerciseNewGeneration(ctx context.Context, nc *natsgo.Conn, stream string, a, b *runningNode) error {
	before, err := a.put(ctx, "before")
	if err != nil {
		return err
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	info, err := js.Stream(ctx, stream)
	if err != nil {
		return err
	}
	if err := js.DeleteStream(ctx, stream); err != nil {
		return err
	}
	if _, err := js.CreateStream(ctx, info.CachedInfo().Config); err != nil {
		return err
	}
	var after pubsub.Version
	if err := await(ctx, "a new generation", func() bool {
		after, err = a.put(ctx, "after")
		return err == nil && after.Generation != before.Generation
	}); err != nil {
		return err
	}
	return await(ctx, "a message of the new generation", func() bool { return b.has("after", after) })
}

// Only the nodes publish where messages are stored and delivered: others in the
// account have no permission to, those in other accounts reach nobody, and a user
// without limits could forge.
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
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	n, err := newNode(ctx, nodeOptions(t, s))
	if err != nil {
		t.Fatal(err)
	}
	defer n.stop()
	if err := n.Subscribe(ctx, "t"); err != nil {
		t.Fatal(err)
	}
	defer n.Unsubscribe("t")

	// A person who may see and do everything records a message on its way.
	person, other, stranger := operator(t, s), connect(t, s, "other", "x"), connect(t, s, "stranger", "x")
	record, err := person.SubscribeSync("pubsub.l.>")
	if err != nil {
		t.Fatal(err)
	}
	overheard, err := stranger.SubscribeSync(">")
	if err != nil {
		t.Fatal(err)
	}
	for _, nc := range []*natsgo.Conn{person, stranger} {
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
		t.Errorf("of %d attempts to forge, %d are refused: %q", len(live), len(lines), lines)
	}
	// What comes after them has come: they have not.
	if err := n.Send(ctx, pubsub.Message{Topic: "t", Data: []byte("last"), Published: time.Now()}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the last message", func() bool { return n.has("last", pubsub.Version{}) })
	if n.has("forged!", pubsub.Version{}) {
		t.Error("a message was forged without the permission to")
	}
	if _, ok, err := n.Last(ctx, "t", pubsub.Version{}); ok || err != nil {
		t.Errorf("a retained message was forged: %v, %v", ok, err)
	}
	for { // its own attempts are all that the stranger hears
		m, err := overheard.NextMsg(100 * time.Millisecond)
		if err != nil {
			break
		}
		if string(m.Data) != string(forged) {
			t.Errorf("another account hears %s", m.Subject)
		}
	}
	if err := person.Publish(message.Subject, forged); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a forged message, by whom nothing is forbidden", func() bool { return n.has("forged!", pubsub.Version{}) })
}

// A broker in the same account, with a prefix and permissions of its own, works
// beside the other, and what that one's nodes are answered, signing keys among it,
// is not for its ears.
func TestNeighbourHearsNoReplies(t *testing.T) {
	s, v := newServer(t, "nats/nats.conf", variables("n1"), func(o *server.Options) {
		node := nodeUser(t, o)
		its := func(subjects []string) (all []string) {
			for _, subject := range subjects {
				all = append(all, strings.ReplaceAll(subject, "pubsub", "neighbour"))
			}
			return all
		}
		o.Users = append(o.Users, &server.User{Username: "neighbour", Password: "x", Account: node.Account, Permissions: &server.Permissions{
			Publish:   &server.SubjectPermission{Allow: its(node.Permissions.Publish.Allow)},
			Subscribe: &server.SubjectPermission{Allow: its(node.Permissions.Subscribe.Allow)},
		}})
	})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	n, err := newNode(ctx, nodeOptions(t, s))
	if err != nil {
		t.Fatal(err)
	}
	defer n.stop()
	o := nodeOptions(t, s)
	o.Prefix, o.User, o.Password = "neighbour", "neighbour", "x"
	if err := exercise(ctx, t, s, o); err != nil {
		t.Errorf("the neighbour: %v", err)
	}
	if lines := v.all(); len(lines) > 0 {
		t.Errorf("refused before anything wrong was tried: %q", lines)
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
	neighbour, person := connect(t, s, "neighbour", "x"), operator(t, s)
	heard := listen(neighbour, append(refused, "neighbour.i.>")...)
	overheard := listen(person, "pubsub.i.>")
	if err := n.PutKey(ctx, pubsub.Key{ID: "k", Value: "secret", Created: time.Now()}); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Key(ctx, "k"); err != nil {
		t.Fatal(err)
	}
	if keys, err := n.Keys(ctx); err != nil || len(keys) != 1 {
		t.Fatalf("Keys: %d, %v", len(keys), err)
	}
	// Who may hear everything has heard the key, so there was something to be heard.
	for {
		var m *natsgo.Msg
		select {
		case m = <-overheard:
		case <-ctx.Done():
			t.Fatal("nobody hears the key, not even who may")
		}
		if strings.Contains(string(m.Data), "secret") {
			break
		}
	}
	if err := neighbour.Flush(); err != nil { // what was on its way has come
		t.Fatal(err)
	}
	if len(heard) > 0 {
		t.Errorf("the neighbour hears %s", (<-heard).Subject)
	}
	if lines := v.all(); len(lines) != len(refused) {
		t.Errorf("of %d subscriptions, %d are refused: %q", len(refused), len(lines), lines)
	}
}
