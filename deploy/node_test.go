package deploy

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"pubsub"
	backplane "pubsub/internal/backplane/nats"

	"github.com/nats-io/nats-server/v2/server"
)

// runningNode is a running backplane with the messages that it has delivered.
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
	return nil, fmt.Errorf("the node is not ready: %w", err)
}

// startNode runs a node on s until the end of the test. The context limits the test.
func startNode(t *testing.T, s *server.Server) (*runningNode, context.Context) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	n, err := newNode(ctx, nodeOptions(t, s))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.stop)
	return n, ctx
}

func (n *runningNode) stop() {
	n.Close()
	<-n.ended
}

// has reports whether a message was delivered.
func (n *runningNode) has(data string, v pubsub.Version) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.ContainsFunc(n.delivered, func(m pubsub.Message) bool { return string(m.Data) == data && m.Version == v })
}

func (n *runningNode) put(ctx context.Context, data string) (pubsub.Version, error) {
	return n.Put(ctx, pubsub.Message{Topic: "t", Data: []byte(data), Retain: true, Published: time.Now()})()
}
