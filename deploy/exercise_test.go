package deploy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"pubsub"
	backplane "pubsub/internal/backplane/nats"

	"github.com/nats-io/nats-server/v2/server"
	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// exercise makes nodes on s with the options o do everything that the nodes of a broker do, until
// all of it has worked.
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
			o.SyncInterval = time.Hour // a watch that falls behind starts again
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

// exerciseKeys puts more keys than JetStream sends to a watch without a reply of its flow
// control.
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
	if err := await("the initial keys", func(c pubsub.KeyEvent) bool { return c.Synced }); err != nil {
		return err
	}
	for i := range n {
		if err := a.PutKey(ctx, key(i)); err != nil {
			return fmt.Errorf("PutKey: %w", err)
		}
	}
	if err := b.PutKey(ctx, key(0)); !errors.Is(err, pubsub.ErrKeyExists) {
		return fmt.Errorf("PutKey of an existing key: %v", err)
	}
	if keys, err := b.Keys(ctx); err != nil || len(keys) != n {
		return fmt.Errorf("Keys: %d, %v", len(keys), err)
	}
	if _, err := b.Key(ctx, "key0"); err != nil {
		return fmt.Errorf("Key: %w", err)
	}
	changed := 0
	if err := await("all keys", func(pubsub.KeyEvent) bool { changed++; return changed == n }); err != nil {
		return err
	}
	if err := a.DeleteKey(ctx, "key0"); err != nil {
		return fmt.Errorf("DeleteKey: %w", err)
	}
	return await("a deletion", func(c pubsub.KeyEvent) bool { return c.Deleted && c.Key.ID == "key0" })
}

// exerciseNewGeneration recreates the stream with the same settings, like a restore of too old
// a copy. The nodes start a new generation.
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
