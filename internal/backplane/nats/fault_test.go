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

	"github.com/nats-io/nats-server/v2/server"
	natsgo "github.com/nats-io/nats.go"

	"pubsub"
	"pubsub/internal/testkit"
)

var (
	harms = flag.Int("faults", 12, "how many times TestFaults does harm")
	find  = flag.Duration("find", patience, "how long a node has to find what it has missed")
)

// Three nodes on three servers, publishers on each, and one harm after the other.
// After each, every node comes to the newest message of every topic by the means
// that there is for this harm, since no sync interval is over in time; and in the
// end nothing ever went back, nothing was made up, and nothing that was
// acknowledged is lost.
func TestFaults(t *testing.T) {
	f := newFaults(t)
	kinds := []harm{
		{name: "announcements are lost", do: (*faults).loseAnnouncements},
		// What is published afterwards would show a gap.
		{name: "a link is cut", do: (*faults).cutLink, still: true},
		{name: "a link falls silent", do: (*faults).silenceLink},
		{name: "a node is killed", do: (*faults).killNode},
		{name: "an announcement is late", do: (*faults).repeatAnnouncement},
		// Announcements may be lost between two servers of which none is there for
		// long: then there is nothing but the interval.
		{name: "a server is stopped", do: (*faults).stopServer, interval: true},
	}
	for i := range *harms {
		f.suffer(i, kinds[i%len(kinds)])
		if i%len(kinds) == 0 {
			// While nothing else has happened only a gap shows what was lost, so it
			// comes first. All else comes in any order.
			f.r.Shuffle(len(kinds)-1, func(a, b int) { kinds[a+1], kinds[b+1] = kinds[b+1], kinds[a+1] })
		}
	}
	f.end()
}

// harm is something that goes wrong.
type harm struct {
	name string
	// do does it; meanwhile it publishes to a topic that nobody else publishes to,
	// so that no later message repairs the loss of this one.
	do       func(f *faults, quiet pubsub.Topic)
	still    bool // nothing else is published, until all is found
	interval bool // the sync interval finds what was missed
}

// suffer has the harm i be done, and all be found that was missed.
func (f *faults) suffer(i int, h harm) {
	f.t.Helper()
	if h.still {
		f.still.Lock()
		defer f.still.Unlock()
	}
	if h.do(f, f.quiet[i]); h.interval {
		f.interval()
	}
	f.found(fmt.Sprintf("harm %d, %s", i+1, h.name), f.history.now())
}

// faults is one run.
type faults struct {
	t       *testing.T
	r       *rand.Rand // owned by the test's goroutine
	cluster *natsCluster
	proxies []*testkit.Proxy // of the nodes, in their order
	history *history

	busy, quiet []pubsub.Topic
	stop        context.CancelFunc // of the publishers
	publishers  sync.WaitGroup
	still       sync.RWMutex // held for reading by publishers while they publish

	mu    sync.Mutex
	nodes []*node // guarded by mu: the test's goroutine alone changes it
}

func newFaults(t *testing.T) *faults {
	f := &faults{t: t, r: seeded(t), history: newHistory()}
	// Only by its proxy does a node reach its server, and no other one.
	f.cluster = newCluster(t, 3, func(o *server.Options) { o.Cluster.NoAdvertise = true })
	for i := range 20 {
		f.busy = append(f.busy, pubsub.Topic(fmt.Sprint("busy/", i)))
	}
	for i := range *harms {
		f.quiet = append(f.quiet, pubsub.Topic(fmt.Sprint("quiet/", i)))
	}
	f.nodes = make([]*node, 3)
	for i, s := range f.cluster.servers {
		f.proxies = append(f.proxies, newProxy(t, s))
		f.startNode(i)
	}
	for _, n := range f.nodes {
		n.settled()
	}
	ctx, stop := context.WithCancel(context.Background())
	f.stop = stop
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

// startNode starts a node, whose subscribers to all topics read what is there.
func (f *faults) startNode(i int) {
	f.t.Helper()
	o := Options{URLs: []string{natsURL(f.proxies[i])}, SyncInterval: time.Hour, Wait: 2 * time.Second}
	o.Events.Error = func(string, error) {} // there are many
	n := newNode(f.t, o)
	n.began = map[pubsub.Topic]pubsub.Version{}
	n.want(markers)
	for _, topics := range [][]pubsub.Topic{f.busy, f.quiet} {
		for _, topic := range topics {
			n.want(topic)
			f.eventually("what a topic retains", func() bool {
				m, ok, err := n.Last(ctxFor(f.t), topic, pubsub.Version{})
				if ok {
					n.began[topic] = m.Version
				}
				return err == nil
			})
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.nodes[i] = n
}

func (f *faults) node(i int) *node {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.nodes[i%len(f.nodes)]
}

// publish publishes to the busy topics, by one node, until ctx is done.
func (f *faults) publish(ctx context.Context, r *rand.Rand, i int) {
	for k := 0; ctx.Err() == nil; k++ {
		m := retainedMessage(f.busy[r.IntN(len(f.busy))], fmt.Sprintf("%d/%d", i, k))
		if r.IntN(20) == 0 {
			m.Data = nil // a clear
		}
		f.still.RLock()
		f.put(f.node(i), m)
		f.still.RUnlock()
		pause(ctx, time.Duration(r.IntN(5))*time.Millisecond)
	}
}

// put publishes m; false if it may not have been kept.
func (f *faults) put(n *node, m pubsub.Message) (pubsub.Version, bool) {
	v, err := n.Put(context.Background(), m)()
	if err != nil {
		if !errors.Is(err, pubsub.ErrUnavailable) && !errors.Is(err, pubsub.ErrClosed) {
			f.t.Errorf("Put: %v", err)
		}
		return v, false
	}
	f.history.acknowledged(m, v)
	return v, true
}

// putBy publishes by node i, as often as it takes.
func (f *faults) putBy(i int, topic pubsub.Topic, data string) (v pubsub.Version) {
	f.t.Helper()
	f.eventually("that a message is kept", func() (ok bool) {
		v, ok = f.put(f.node(i), retainedMessage(topic, data))
		return ok
	})
	return v
}

func (f *faults) eventually(what string, ok func() bool) {
	f.t.Helper()
	eventually(f.t, what, ok)
}

// pause waits for up to half a second.
func (f *faults) pause() { pause(context.Background(), time.Duration(f.r.IntN(500))*time.Millisecond) }

// found waits until every node has what want says of each topic, or a newer one.
func (f *faults) found(after string, want map[pubsub.Topic]pubsub.Version) {
	f.t.Helper()
	for i := range f.nodes {
		n, behind := f.node(i), ""
		if !within(*find, func() bool { behind = n.behind(want); return behind == "" }) {
			f.check(n)
			f.t.Fatalf("%s: node %d does not find what it has missed of %s", after, i, behind)
		}
	}
}

// interval has the sync interval be over.
func (f *faults) interval() {
	for i := range f.nodes {
		f.node(i).bus.sweeper.kick("interval")
	}
}

// loseAnnouncements has no node be told what is published to two topics. Of one of
// them the next message comes to all, and shows that there was something to miss.
func (f *faults) loseAnnouncements(quiet pubsub.Topic) {
	i := f.r.IntN(len(f.nodes))
	shows := f.busy[f.r.IntN(len(f.busy))]
	silently(f.t, f.node(i).Backplane, func() {
		f.putBy(i, quiet, "not announced")
		f.putBy(i, shows, "not announced")
		f.pause()
	})
	f.putBy(i, shows, "announced")
}

// cutLink closes the connection of a node for a while.
func (f *faults) cutLink(quiet pubsub.Topic) {
	i := f.r.IntN(len(f.nodes))
	f.found("before a cut", f.history.now())
	f.node(i).settled() // or it would look again anyway
	f.proxies[i].SetCut(true)
	f.eventually("that a node is cut off", func() bool { return !f.node(i).Stats().Connected })
	f.putBy(i+1, quiet, "while it was cut off")
	f.pause()
	f.proxies[i].SetCut(false)
}

// silenceLink throws away what a node is sent, and then closes its connection.
func (f *faults) silenceLink(quiet pubsub.Topic) {
	i := f.r.IntN(len(f.nodes))
	f.proxies[i].SetSilent(true, false)
	f.putBy(i+1, quiet, "while it was deaf")
	f.pause()
	f.proxies[i].SetCut(true)
	f.proxies[i].SetSilent(false, false)
	f.proxies[i].SetCut(false)
}

// killNode ends a node without its saying so to the others, and starts another.
func (f *faults) killNode(quiet pubsub.Topic) {
	i := f.r.IntN(len(f.nodes))
	n := f.node(i)
	f.proxies[i].SetCut(true)
	n.Close()
	f.check(n)
	f.putBy(i+1, quiet, "while it was dead")
	f.proxies[i].SetCut(false)
	f.startNode(i)
}

// markers is the topic of messages that come after others.
const markers = pubsub.Topic("marker")

// repeatAnnouncement announces a message again that another one has replaced.
func (f *faults) repeatAnnouncement(quiet pubsub.Topic) {
	i := f.r.IntN(len(f.nodes))
	n := f.node(i)
	old := retainedMessage(quiet, "older")
	v := f.putBy(i, quiet, string(old.Data))
	f.putBy(i, quiet, "newer")
	f.found("before an announcement is late", f.history.now())
	late := &put{topic: quiet, msg: &natsgo.Msg{Data: appendRecord(nil, &old)}}
	f.eventually("that all have had the late announcement", func() bool {
		n.link.announce(late, v)
		// What comes by the same way, after it.
		marker := pubsub.Message{Topic: markers, Data: []byte(quiet), Published: time.Now()}
		if err := n.Send(ctxFor(f.t), marker); err != nil {
			return false
		}
		for k := range f.nodes {
			if m, ok := f.node(k).last(markers); !ok || string(m.Data) != string(quiet) {
				return false
			}
		}
		return true
	})
}

// stopServer stops a server for a while.
func (f *faults) stopServer(quiet pubsub.Topic) {
	i := f.r.IntN(len(f.nodes))
	f.cluster.servers[i].stop()
	f.putBy(i+1, quiet, "while a server was stopped")
	f.pause()
	f.cluster.servers[i].start()
}

// check looks at all that a node has delivered.
func (f *faults) check(n *node) {
	f.t.Helper()
	n.neverBack()
	f.history.invented(n)
}

// end stops the publishers and compares the nodes with the stream.
func (f *faults) end() {
	f.t.Helper()
	f.stop()
	f.publishers.Wait()
	acknowledged, stored := f.history.now(), map[pubsub.Topic]pubsub.Version{}
	for topic, v := range acknowledged {
		f.eventually("what a topic retains", func() bool {
			r, err := f.node(0).reads.one(ctxFor(f.t), topic)
			if err != nil {
				return false
			}
			stored[topic] = r.message.Version
			return true
		})
		if s := stored[topic]; s.Generation != v.Generation || s.Seq < v.Seq {
			f.t.Errorf("topic %q ends on version %v, acknowledged was %v", topic, s, v)
		}
	}
	f.interval()
	f.found("in the end", stored)
	for i := range f.nodes {
		n := f.node(i)
		f.check(n)
		for topic, v := range stored {
			if m, ok := n.last(topic); ok && m.Version.Newer(v) {
				f.t.Errorf("node %d ends on version %v of topic %q, stored is %v", i, m.Version, topic, v)
			}
		}
		f.t.Logf("node %d: %+v", i, n.Stats())
	}
}
