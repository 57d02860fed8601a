//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"pubsub"
	"pubsub/bench/internal/load"
	"pubsub/internal/testkit/process"
)

// cluster is a NATS server and nodes on it, or one node without NATS.
type cluster struct {
	nats  *process.Process // nil without NATS
	nodes []*process.Broker
	key   pubsub.Key // signs the subscribers' tokens
}

// startCluster starts n nodes on a NATS server, or, if n is 0, one node with the embedded
// store. It makes dir for their files. All processes end when ctx is done.
func (o *options) startCluster(ctx context.Context, dir string, n int) (*cluster, error) {
	c := &cluster{}
	if err := c.start(ctx, o, dir, n); err != nil {
		c.stop()
		return nil, err
	}
	return c, nil
}

func (c *cluster) start(ctx context.Context, o *options, dir string, n int) (err error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	store := "--data-dir=" + filepath.Join(dir, "data")
	if n > 0 {
		if c.nats, err = startNATS(ctx, dir); err != nil {
			return err
		}
		store = "--nats=nats://" + c.nats.Addr
	}
	flags := append([]string{store}, strings.Fields(o.serve)...)
	for range max(n, 1) {
		b, err := process.StartBroker(ctx, o.binary, adminToken, flags...)
		if err != nil {
			return err
		}
		c.nodes = append(c.nodes, b)
	}
	c.key, err = process.CreateKey(c.nodes[0].Addr, adminToken)
	return err
}

func (c *cluster) stop() {
	for _, b := range c.nodes {
		b.Stop()
	}
	if c.nats != nil {
		c.nats.Stop()
	}
}

// warm makes each node do everything once, so that memory for first uses is not counted as a
// subscriber's.
func (c *cluster) warm(size int) error {
	for _, b := range c.nodes {
		if err := c.warmNode(b, size); err != nil {
			return err
		}
	}
	return nil
}

func (c *cluster) warmNode(b *process.Broker, size int) error {
	const topic, few = "warm", 100
	hs, err := handshakes(c.key, topic, few)
	if err != nil {
		return err
	}
	subs, _, err := load.Connect(b.Addr, hs, false)
	if err != nil {
		return err
	}
	defer subs.Close()
	for i, kind := range kinds {
		p, err := publisher(b, topic, kind.retain, size)
		if err != nil {
			return err
		}
		defer p.Close()
		if err := p.Publish(); err != nil {
			return err
		}
		if !subs.WaitAll(i+1, load.LossTimeout) {
			return errors.Join(fmt.Errorf("some of %d subscribers do not receive messages", few), subs.Failed())
		}
	}
	return nil
}

// publisher returns a publisher through a node.
func publisher(b *process.Broker, topic string, retain bool, size int) (*load.Publisher, error) {
	return load.Post(b.Addr, fmt.Sprintf("/events?topic=%s&retain=%t", topic, retain), adminToken, size)
}

// together calls f for 0 to n-1 concurrently and waits for all calls.
func together(n int, f func(i int) error) error {
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { errs[i] = f(i) })
	}
	wg.Wait()
	return errors.Join(errs...)
}
