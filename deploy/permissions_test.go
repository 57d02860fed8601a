package deploy

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"pubsub"
	"pubsub/internal/backplane/backplanetest"
	backplane "pubsub/internal/backplane/nats"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
)

// streams are the streams of a broker with the default prefix.
var streams = []string{"pubsub_retained", "KV_pubsub_keys"}

// TestConformance runs the conformance tests of a backplane with the permissions of
// accounts.conf on a cluster with nats.conf.
func TestConformance(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "nats/nats.conf", nil)
	for _, s := range c.servers {
		if o := s.JetStreamConfig(); o == nil || !o.SyncAlways {
			t.Errorf("server %s acknowledges messages before they are on its disk: %+v", s.Name(), o)
		}
	}
	nc := operator(t, c.servers[0])
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	open := func(t *testing.T, nodes int) (bs []pubsub.Backplane) {
		for _, name := range streams { // of the previous test
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
	c.check(t)
}

// permission is a line of accounts.conf.
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

// permissions returns the permissions of a node in accounts.conf.
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

// TestEveryPermissionIsNeeded checks that a node violates no permission with all lines of
// accounts.conf, and violates one without any of them.
func TestEveryPermissionIsNeeded(t *testing.T) {
	t.Parallel()
	all := permissions(t)
	if len(all) < 10 {
		t.Fatalf("accounts.conf has only %d permissions", len(all))
	}
	t.Run("none missing", func(t *testing.T) {
		t.Parallel()
		s, v := newServer(t, "nats/nats.conf", variables("n1"), nil)
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		if err := exercise(ctx, t, s, nodeOptions(t, s)); err != nil {
			t.Error(err)
		}
		v.check(t)
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
				t.Fatalf("no node needs it; the test of the nodes returned %v", err)
			}
			// Only the missing permission is violated.
			kind := map[bool]string{true: "Publish", false: "Subscription"}[missing.publish]
			for _, line := range lines {
				_, rest, _ := strings.Cut(line, kind+" Violation - Subject \"")
				subject, _, ok := strings.Cut(rest, `"`)
				if !ok || !server.SubjectsCollide(subject, missing.subject) {
					t.Errorf("another permission is violated: %s", line)
				}
			}
		})
	}
}
