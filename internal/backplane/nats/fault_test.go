package nats

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pubsub"

	"github.com/nats-io/nats-server/v2/server"
)

var faultTime = flag.Duration("faults", 15*time.Second, "how long TestFaults does harm")

// Three nodes on three servers, publishers on each, while servers are stopped and
// started and links are cut, at random. In the end every node has been told of the
// newest message of every topic, each that was acknowledged was seen or replaced by
// a newer one, and nothing ever went back.
func TestFaults(t *testing.T) {
	// Most topics are published to all the time; of the quiet ones each gets one
	// message while harm is done, and no later one repairs its loss.
	const busy, quiet = 40, 200
	const topics = busy + quiet
	r := seeded(t)
	// Only by its proxy does a node reach its server, and no other one.
	c := newCluster(t, 3, func(o *server.Options) { o.Cluster.NoAdvertise = true })
	var proxies []*proxy
	var nodes []*node
	for _, s := range c.servers {
		p := newProxy(t, s)
		proxies = append(proxies, p)
		o := Options{URLs: []string{p.url()}, SyncInterval: 2 * time.Second, Wait: 2 * time.Second}
		o.Events.Error = func(error) {} // there are many
		nodes = append(nodes, newNode(t, o))
	}
	topic := func(i int) pubsub.Topic { return pubsub.Topic(fmt.Sprintf("fault/%d", i)) }
	for _, n := range nodes {
		for i := range topics {
			n.want(topic(i))
		}
	}
	var mu sync.Mutex
	acknowledged := map[pubsub.Topic]pubsub.Version{} // the newest one
	var tried, kept atomic.Int64
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	var wg sync.WaitGroup
	for k, n := range nodes {
		for w := range 4 {
			seed := r.Uint64()
			wg.Go(func() {
				r := rand.New(rand.NewPCG(seed, uint64(w)))
				for i := 0; ctx.Err() == nil; i++ {
					m := retainedMessage(topic(r.IntN(busy)), fmt.Sprintf("%d/%d/%d", k, w, i))
					if r.IntN(20) == 0 {
						m.Data = nil // a clear
					}
					tried.Add(1)
					v, err := n.Put(context.Background(), m)()
					if err != nil {
						if !errors.Is(err, pubsub.ErrUnavailable) {
							t.Errorf("Put: %v", err)
						}
						continue
					}
					kept.Add(1)
					mu.Lock()
					if old := acknowledged[m.Topic]; v.Generation != old.Generation || v.Seq > old.Seq {
						acknowledged[m.Topic] = v
					}
					mu.Unlock()
				}
			})
		}
	}
	harm := func() {
		i := r.IntN(3)
		switch r.IntN(3) {
		case 0:
			proxies[i].setCut(true)
			pause(ctx, time.Duration(r.IntN(1000))*time.Millisecond)
			proxies[i].setCut(false)
		case 1:
			proxies[i].deaf.Store(true)
			pause(ctx, time.Duration(r.IntN(1000))*time.Millisecond)
			proxies[i].setCut(true)
			proxies[i].deaf.Store(false)
			proxies[i].setCut(false)
		case 2:
			c.servers[i].stop()
			pause(ctx, time.Duration(r.IntN(1500))*time.Millisecond)
			c.servers[i].start()
		}
		pause(ctx, time.Duration(r.IntN(1500))*time.Millisecond)
	}
	harms := 0
	for end := time.Now().Add(*faultTime); time.Now().Before(end); harms++ {
		if harms < quiet {
			first := harms
			m, after := retainedMessage(topic(busy+harms), "once"), time.Duration(r.IntN(1000))*time.Millisecond
			wg.Go(func() {
				pause(ctx, after)
				for i := 0; ; i++ {
					v, err := nodes[(first+i)%len(nodes)].Put(context.Background(), m)()
					if err == nil {
						mu.Lock()
						acknowledged[m.Topic] = v
						mu.Unlock()
						return
					}
				}
			})
		}
		harm()
	}
	healed := time.Now()
	before := kept.Load()
	eventually(t, "that all is well again", func() bool { return kept.Load() > before+100 })
	t.Logf("all is well %v after the last harm", time.Since(healed))
	stop()
	wg.Wait()
	t.Logf("%d harms, %d of %d messages kept, generation %x, %+v", harms, kept.Load(), tried.Load(), nodes[0].link.epoch.current(), nodes[0].Stats())
	for i := range busy + min(harms, quiet) {
		last := acknowledged[topic(i)]
		var want pubsub.Version
		eventually(t, fmt.Sprintf("that all nodes agree on topic %d", i), func() bool {
			r, err := nodes[0].reads.one(ctxFor(t), topic(i))
			if err != nil || !r.ok {
				return false
			}
			want = r.message.Version
			for _, n := range nodes {
				if m, ok := n.last(topic(i)); !ok || m.Version != want || string(m.Data) != string(r.message.Data) {
					return false
				}
			}
			return true
		})
		if want.Generation == last.Generation && want.Seq < last.Seq {
			t.Errorf("topic %d ends on version %v, acknowledged was %v", i, want, last)
		}
		if want.Generation != last.Generation {
			t.Errorf("topic %d ends in generation %s, acknowledged was %v", i, strconv.FormatUint(want.Generation, 16), last)
		}
	}
	t.Logf("all agree %v after the last harm", time.Since(healed))
	for _, n := range nodes {
		n.neverBack()
	}
}
