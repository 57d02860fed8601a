package nats

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"pubsub"
	"pubsub/internal/backplane/nats/layout"
	"pubsub/internal/testkit"

	"github.com/nats-io/nats-server/v2/server"
	natsgo "github.com/nats-io/nats.go"
)

var (
	faultCount = flag.Int("faults", 0, "how many faults TestFaults causes; 0 means one of each kind, or two in a long run")
	find       = flag.Duration("find", patience, "how long a node has to find a missed message")
)

// TestFaults runs three nodes on three servers, with publishers on each, and causes one fault
// after another. After each fault, every node must deliver the newest message of every topic by
// the mechanism for that fault, because no sync interval ends in time. In the end, no version went
// back, no message was invented, and no acknowledged message was lost.
func TestFaults(t *testing.T) {
	t.Parallel()
	kinds := []fault{
		{name: "announcements are lost", do: (*faultRun).loseAnnouncements},
		// A later message would show a gap.
		{name: "a link is cut", do: (*faultRun).cutLink, quiet: true},
		{name: "a link falls silent", do: (*faultRun).silenceLink},
		{name: "a node is killed", do: (*faultRun).killNode},
		{name: "an announcement is late", do: (*faultRun).repeatAnnouncement},
		// Announcements may be lost between two servers, neither of which runs for long. Then
		// only the sync interval helps.
		{name: "a server is stopped", do: (*faultRun).stopServer, needsInterval: true},
	}
	faults := *faultCount
	if faults == 0 {
		faults = len(kinds)
		if testkit.Long() {
			faults *= 2
		}
	}
	f := newFaultRun(t, faults)
	for i := range faults {
		f.inject(i, kinds[i%len(kinds)])
		if i%len(kinds) == 0 {
			// Lost announcements come first: only before all other faults does nothing but a gap
			// show them. The others come in any order.
			f.r.Shuffle(len(kinds)-1, func(a, b int) { kinds[a+1], kinds[b+1] = kinds[b+1], kinds[a+1] })
		}
	}
	f.finish()
}

// fault is a kind of fault that a run can cause.
type fault struct {
	name string
	// do causes the fault. Meanwhile it publishes to the topic alone, to which nothing else is
	// published, so that no later message makes up for the loss of this one.
	do            func(f *faultRun, alone pubsub.Topic)
	quiet         bool // nothing else is published until every message is found
	needsInterval bool // the end of the sync interval finds the missed messages
}

// inject causes a fault, the ith of the run, and waits until every missed message is found.
func (f *faultRun) inject(i int, kind fault) {
	f.t.Helper()
	if kind.quiet {
		f.publishing.Lock()
		defer f.publishing.Unlock()
	}
	if kind.do(f, f.alone[i]); kind.needsInterval {
		f.endInterval()
	}
	f.awaitFound(fmt.Sprintf("fault %d, %s", i+1, kind.name), f.history.versions())
}

// faultRun is one run.
type faultRun struct {
	t       *testing.T
	r       *rand.Rand // owned by the test's goroutine
	cluster *natsCluster
	proxies []*testkit.Proxy // of the nodes, in their order
	history *history

	busy, alone    []pubsub.Topic
	stopPublishers context.CancelFunc
	publishers     sync.WaitGroup
	publishing     sync.RWMutex // held for reading by publishers

	mu    sync.Mutex
	nodes []*node // guarded by mu; only the test's goroutine changes it
}

func newFaultRun(t *testing.T, faults int) *faultRun {
	t.Logf("seed %d (repeat with -seed)", *seed)
	f := &faultRun{t: t, r: rand.New(rand.NewPCG(*seed, *seed)), history: newHistory()}
	// A node can reach only its own server, through its proxy.
	f.cluster = newCluster(t, 3, func(o *server.Options) { o.Cluster.NoAdvertise = true })
	for i := range 20 {
		f.busy = append(f.busy, pubsub.Topic(fmt.Sprint("busy/", i)))
	}
	for i := range faults {
		f.alone = append(f.alone, pubsub.Topic(fmt.Sprint("alone/", i)))
	}
	f.nodes = make([]*node, 3)
	for i, s := range f.cluster.servers {
		f.proxies = append(f.proxies, newProxy(t, s))
		f.startNode(i)
	}
	for _, n := range f.nodes {
		n.awaitResync()
	}
	ctx, stop := context.WithCancel(context.Background())
	f.stopPublishers = stop
	t.Cleanup(func() {
		stop()
		f.publishers.Wait()
	})
	for i := range 6 {
		r := rand.New(rand.NewPCG(f.r.Uint64(), uint64(i)))
		f.publishers.Go(func() { f.publish(ctx, r, i) })
	}
	return f
}

// startNode starts a node, subscribes it to all topics and reads their messages.
func (f *faultRun) startNode(i int) {
	f.t.Helper()
	o := Options{URLs: []string{natsURL(f.proxies[i])}, SyncInterval: time.Hour, Wait: 2 * time.Second, settleTime: settleTime}
	o.Events.Error = func(string, error) {} // there are many
	n := newNode(f.t, o)
	n.read = map[pubsub.Topic]pubsub.Version{}
	n.subscribe(markers)
	for _, topics := range [][]pubsub.Topic{f.busy, f.alone} {
		for _, topic := range topics {
			n.subscribe(topic)
			testkit.Eventually(f.t, "the retained message", func() bool {
				m, ok, err := n.Last(testContext(f.t), topic, pubsub.Version{})
				if ok {
					n.read[topic] = m.Version
				}
				return err == nil
			})
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.nodes[i] = n
}

func (f *faultRun) node(i int) *node {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.nodes[i%len(f.nodes)]
}

// publish publishes to the busy topics, at one node, until ctx is done.
func (f *faultRun) publish(ctx context.Context, r *rand.Rand, i int) {
	for k := 0; ctx.Err() == nil; k++ {
		m := retainedMessage(f.busy[r.IntN(len(f.busy))], fmt.Sprintf("%d/%d", i, k))
		if r.IntN(20) == 0 {
			m.Data = nil // a clear
		}
		f.publishing.RLock()
		f.put(f.node(i), m)
		f.publishing.RUnlock()
		sleep(ctx, time.Duration(r.IntN(5))*time.Millisecond)
	}
}

// put publishes m. It reports whether m was acknowledged; otherwise m may be stored or not.
func (f *faultRun) put(n *node, m pubsub.Message) (v pubsub.Version, ok bool) {
	v, err := n.Put(context.Background(), m)()
	if err != nil {
		if !errors.Is(err, pubsub.ErrUnavailable) && !errors.Is(err, pubsub.ErrClosed) {
			f.t.Errorf("Put: %v", err)
		}
		return v, false
	}
	f.history.acknowledge(m, v)
	return v, true
}

// putAt publishes at node i until the message is acknowledged.
func (f *faultRun) putAt(i int, topic pubsub.Topic, data string) (v pubsub.Version) {
	f.t.Helper()
	testkit.Eventually(f.t, "a stored message", func() (ok bool) {
		v, ok = f.put(f.node(i), retainedMessage(topic, data))
		return ok
	})
	return v
}

// sleepBriefly waits for up to half a second.
func (f *faultRun) sleepBriefly() {
	sleep(context.Background(), time.Duration(f.r.IntN(500))*time.Millisecond)
}

// awaitFound waits until every node has the version in want of each topic, or a newer one.
func (f *faultRun) awaitFound(after string, want map[pubsub.Topic]pubsub.Version) {
	f.t.Helper()
	for i := range f.nodes {
		n, missing := f.node(i), ""
		if !testkit.Within(*find, func() bool { missing = n.missing(want); return missing == "" }) {
			f.check(n)
			f.t.Fatalf("%s: node %d does not find a missed message of %s", after, i, missing)
		}
	}
}

// endInterval ends the sync interval of every node.
func (f *faultRun) endInterval() {
	for i := range f.nodes {
		f.node(i).client.resyncs.request(causeInterval)
	}
}

// loseAnnouncements publishes to two topics while nothing is announced. The next message of one
// of them reaches all nodes, with a gap.
func (f *faultRun) loseAnnouncements(alone pubsub.Topic) {
	i := f.r.IntN(len(f.nodes))
	withGap := f.busy[f.r.IntN(len(f.busy))]
	f.node(i).withoutAnnouncements(func() {
		f.putAt(i, alone, "not announced")
		f.putAt(i, withGap, "not announced")
		f.sleepBriefly()
	})
	f.putAt(i, withGap, "announced")
}

// cutLink closes the connection of a node for a while.
func (f *faultRun) cutLink(alone pubsub.Topic) {
	i := f.r.IntN(len(f.nodes))
	f.awaitFound("before a cut", f.history.versions())
	f.node(i).awaitResync() // otherwise a scheduled resync could find the message
	f.proxies[i].SetCut(true)
	f.node(i).awaitDisconnected()
	f.putAt(i+1, alone, "while it was disconnected")
	f.sleepBriefly()
	f.proxies[i].SetCut(false)
}

// silenceLink holds back everything that is sent to a node, and then closes its connection.
func (f *faultRun) silenceLink(alone pubsub.Topic) {
	i := f.r.IntN(len(f.nodes))
	f.proxies[i].SetSilent(true, false)
	f.putAt(i+1, alone, "while its link was silent")
	f.sleepBriefly()
	replaceConnection(f.proxies[i])
}

// killNode ends a node before it can say bye to the others, and starts another.
func (f *faultRun) killNode(alone pubsub.Topic) {
	i := f.r.IntN(len(f.nodes))
	n := f.node(i)
	f.proxies[i].SetCut(true)
	n.Close()
	f.check(n)
	f.putAt(i+1, alone, "while it was down")
	f.proxies[i].SetCut(false)
	f.startNode(i)
}

// markers is the topic of messages that show that earlier ones have arrived.
const markers = pubsub.Topic("marker")

// repeatAnnouncement announces a message again that another one has replaced.
func (f *faultRun) repeatAnnouncement(alone pubsub.Topic) {
	i := f.r.IntN(len(f.nodes))
	n := f.node(i)
	old := retainedMessage(alone, "older")
	v := f.putAt(i, alone, string(old.Data))
	f.putAt(i, alone, "newer")
	f.awaitFound("before an announcement is late", f.history.versions())
	late := &put{topic: alone, msg: &natsgo.Msg{Data: layout.AppendMessage(nil, &old)}}
	testkit.Eventually(f.t, "the late announcement at all nodes", func() bool {
		n.client.announce(late, v)
		// The marker follows the announcement on the same way.
		marker := pubsub.Message{Topic: markers, Data: []byte(alone), Published: time.Now()}
		if err := n.Send(testContext(f.t), marker); err != nil {
			return false
		}
		for k := range f.nodes {
			if m, ok := f.node(k).last(markers); !ok || string(m.Data) != string(alone) {
				return false
			}
		}
		return true
	})
}

// stopServer stops a server for a while.
func (f *faultRun) stopServer(alone pubsub.Topic) {
	i := f.r.IntN(len(f.nodes))
	f.cluster.servers[i].stop()
	f.putAt(i+1, alone, "while a server was stopped")
	f.sleepBriefly()
	f.cluster.servers[i].start()
}

// check checks everything that a node has delivered.
func (f *faultRun) check(n *node) {
	f.t.Helper()
	n.checkOrder()
	f.history.checkContent(n)
}

// finish stops the publishers and compares the nodes with the stream.
func (f *faultRun) finish() {
	f.t.Helper()
	f.stopPublishers()
	f.publishers.Wait()
	acknowledged, stored := f.history.versions(), map[pubsub.Topic]pubsub.Version{}
	for topic, v := range acknowledged {
		testkit.Eventually(f.t, "the retained message", func() bool {
			r, err := f.node(0).reader.readOne(testContext(f.t), topic)
			if err != nil {
				return false
			}
			stored[topic] = r.message.Version
			return true
		})
		if s := stored[topic]; s.Generation != v.Generation || s.Seq < v.Seq {
			f.t.Errorf("topic %q ends with version %v, acknowledged was %v", topic, s, v)
		}
	}
	f.endInterval()
	f.awaitFound("in the end", stored)
	for i := range f.nodes {
		n := f.node(i)
		f.check(n)
		for topic, v := range stored {
			if m, ok := n.last(topic); ok && m.Version.Newer(v) {
				f.t.Errorf("node %d ends with version %v of topic %q, stored is %v", i, m.Version, topic, v)
			}
		}
		f.t.Logf("node %d: %+v", i, n.Stats())
	}
}
