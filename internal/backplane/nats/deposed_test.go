package nats

import (
	"context"
	"errors"
	"net/url"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"pubsub"
	"pubsub/internal/testkit"
)

// A leader that is cut off from the other servers answers for up to ten seconds as
// if it were still one. Of what the others have acknowledged meanwhile it knows
// nothing, and who asks it is not told what was newest before.
func TestDeposedLeaderIsNotBelieved(t *testing.T) {
	c, routes := newSeverableCluster(t, 3)
	ahead := newNode(t, Options{URLs: c.urls()})
	stream := ahead.link.names.stream()
	leader := c.leader(stream)
	var others []string
	for _, s := range c.servers {
		if s != leader {
			others = append(others, s.url())
		}
	}
	behind := newNode(t, Options{URLs: []string{leader.url()}})
	ahead = newNode(t, Options{URLs: others})
	ctx := ctxFor(t)
	publish := func(data string) (pubsub.Version, error) {
		return ahead.Put(ctx, pubsub.Message{Topic: "t", Data: []byte(data), Retain: true})()
	}
	if _, err := publish("old"); err != nil {
		t.Fatal(err)
	}
	if m, ok, err := behind.Last(ctx, "t", pubsub.Version{}); err != nil || !ok || string(m.Data) != "old" {
		t.Fatalf("before the cut: %q, %v, %v", m.Data, ok, err)
	}
	i := slices.Index(c.servers, leader)
	sever(routes, i, true)
	eventually(t, "another leader", func() bool { _, err := publish("new"); return err == nil })
	believed := leader.s.JetStreamIsStreamLeader("$G", stream)
	short, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	m, ok, err := behind.Last(short, "t", pubsub.Version{})
	switch {
	case err == nil && (!ok || string(m.Data) != "new"):
		t.Errorf("by the leader that was: %q, %v", m.Data, ok)
	case err != nil && !errors.Is(err, pubsub.ErrUnavailable) && !errors.Is(err, context.DeadlineExceeded):
		t.Errorf("by the leader that was: %v", err)
	}
	if err := behind.Health(ctx); !errors.Is(err, pubsub.ErrUnavailable) {
		t.Errorf("the node's health, by the leader that was: %v", err)
	}
	if !believed {
		t.Log("it had noticed already")
	}
	sever(routes, i, false)
	if m, ok, err := behind.Last(ctx, "t", pubsub.Version{}); err != nil || !ok || string(m.Data) != "new" {
		t.Errorf("after the cut: %q, %v, %v", m.Data, ok, err)
	}
}

// sever cuts a server off from the others, or connects it again.
func sever(routes [][]*testkit.Proxy, i int, cut bool) {
	for j := range routes {
		if i != j {
			routes[i][j].SetCut(cut)
			routes[j][i].SetCut(cut)
		}
	}
}

// newSeverableCluster returns a running cluster of n servers, and the proxy by which
// each reaches each other one.
func newSeverableCluster(t testing.TB, n int) (c *natsCluster, routes [][]*testkit.Proxy) {
	t.Helper()
	i := -1
	c = newCluster(t, n, func(o *server.Options) {
		i++
		o.Cluster.NoAdvertise = true
		if routes == nil {
			for range n {
				var from []*testkit.Proxy
				for _, r := range o.Routes {
					from = append(from, testkit.NewProxy(t, r.Host))
				}
				routes = append(routes, from)
			}
		}
		o.Routes = nil
		for j, p := range routes[i] {
			if j != i {
				o.Routes = append(o.Routes, &url.URL{Scheme: "nats", Host: p.Addr()})
			}
		}
		o.Cluster.Advertise = "127.0.0.1:1" // nobody is to go there past the proxies
	})
	return c, routes
}
