//go:build linux

package fault_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"pubsub/internal/testkit"
	"pubsub/internal/testkit/history"
	"pubsub/internal/testkit/process"
	"pubsub/internal/token"
)

const (
	nodeCount   = 3
	serverCount = 3
	topicCount  = 200

	publishers    = 10 // every other one by POST, the others over MQTT
	streams       = 24
	sessions      = 20
	streamTopics  = 10 // topics of a stream; the first streams have all topics together
	sessionTopics = 40 // topics of a session
)

// The cluster keeps its promises while faults are injected: see checker.
func TestFaults(t *testing.T) {
	t.Parallel()
	b, err := unchanged()
	if err != nil {
		t.Fatal(err)
	}
	r := newRun(t, b)
	// The first fault kills a node, so that clients connect again in a short run, too.
	for begun, kinds := time.Now(), []int{0}; time.Since(begun) < *duration && r.checker.ok(); {
		if len(kinds) == 0 {
			kinds = r.rand.Perm(len(faults)) // every kind once before any repeats
		}
		injected := []fault{faults[kinds[0]]}
		kinds = kinds[1:]
		if r.rand.IntN(3) == 0 {
			injected = append(injected, faults[r.rand.IntN(len(faults))])
		}
		r.inject(injected...)
	}
	r.end()
	for _, v := range r.checker.List() {
		t.Error(v)
	}
	if c := r.checker.counts; c.acknowledged == 0 || c.delivered == 0 || c.connections <= len(r.followers) {
		t.Errorf("too little has happened: %+v", c)
	}
	if t.Failed() {
		t.Log(r.nodes.logs())
	}
}

// run is a cluster and its clients.
type run struct {
	// immutable
	t       testing.TB
	begun   time.Time
	checker *checker
	servers []*natsServer
	routes  routes // between them
	nodes   nodes

	followers           []*follower
	stop                context.CancelFunc // of all clients
	publishing, reading sync.WaitGroup
	pausing             sync.RWMutex

	// owned by the test's goroutine
	rand      *rand.Rand
	untouched []*node       // see anyNode
	patience  time.Duration // until all have converged
}

// newRun starts a cluster and its clients, and waits until all followers have the retained
// messages.
func newRun(t testing.TB, binary string) *run {
	t.Helper()
	r := &run{t: t, begun: time.Now(), patience: testkit.Patience, checker: newChecker(), rand: newRand(0)}
	r.servers, r.routes = newNATS(t, serverCount)
	for i := range nodeCount {
		n := newNode(t, fmt.Sprint("node ", i), binary, r.servers, r.checker)
		r.nodes = append(r.nodes, n)
		n.start()
	}
	r.nodes.waitReady()
	key, err := process.CreateKey(r.nodes[0].addr, adminToken)
	if err != nil {
		t.Fatal(err)
	}
	http.DefaultClient.CloseIdleConnections() // of CreateKey
	var all []string
	for i := range topicCount {
		all = append(all, fmt.Sprint("t", i))
		r.checker.addTopic(all[i])
	}
	bearer, err := token.Sign(key, token.Claims{Read: all, Write: all})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	r.stop = stop
	t.Cleanup(func() {
		stop()
		r.publishing.Wait()
		r.reading.Wait()
	})
	r.follow(ctx, all, bearer)
	r.publish(ctx, all, bearer)
	r.converge("at the start")
	return r
}

// follow starts the followers.
func (r *run) follow(ctx context.Context, all []string, bearer string) {
	order := r.rand.Perm(len(all))
	for i := range streams + sessions {
		f := &follower{token: bearer, nodes: r.nodes, checker: r.checker, rand: newRand(1000 + uint64(i))}
		var takes []int
		switch {
		case i < len(all)/streamTopics:
			takes = order[i*streamTopics : (i+1)*streamTopics]
		case i < streams:
			takes = r.rand.Perm(len(all))[:streamTopics]
		default:
			takes = r.rand.Perm(len(all))[:sessionTopics]
		}
		for _, k := range takes {
			f.topics = append(f.topics, all[k])
		}
		if i < streams {
			f.name, f.connect = fmt.Sprint("stream ", i), openStream
		} else {
			f.name, f.connect = fmt.Sprint("session ", i-streams), openSession
		}
		r.checker.addFollower(f.name, i < streams, f.topics)
		r.followers = append(r.followers, f)
		r.reading.Go(func() { f.follow(ctx) })
	}
}

// publish starts the publishers.
func (r *run) publish(ctx context.Context, all []string, bearer string) {
	each := len(all) / publishers
	for i := range publishers {
		p := &publisher{
			name: fmt.Sprint("publisher ", i), topics: all[i*each : (i+1)*each], token: bearer,
			nodes: r.nodes, checker: r.checker, pausing: &r.pausing, rand: newRand(2000 + uint64(i)), once: post,
		}
		if i%2 == 1 {
			p.once = publishBySession
		}
		r.publishing.Go(func() { p.publish(ctx) })
	}
}

func (r *run) logf(format string, args ...any) {
	r.t.Logf("%6.1f s  %s", time.Since(r.begun).Seconds(), fmt.Sprintf(format, args...))
}

// inject injects faults, heals them, and waits until all followers have converged.
func (r *run) inject(fs ...fault) {
	r.untouched = append([]*node(nil), r.nodes...)
	var names []string
	var heals []func()
	for _, f := range fs {
		names = append(names, f.name)
		heals = append(heals, f.inject(r))
		r.pause(time.Second)
	}
	injected := strings.Join(names, ", and ")
	r.logf("%s", injected)
	// Half of the time publishing pauses first, because a message that is published after
	// the faults have healed may replace one that was lost.
	paused := r.rand.IntN(2) == 0
	if paused {
		r.pausing.Lock()
	}
	r.pause(2 * time.Second)
	for _, i := range r.rand.Perm(len(heals)) {
		heals[i]()
	}
	if paused {
		r.pausing.Unlock()
	}
	r.converge(injected)
	r.pause(time.Second)
}

// converge pauses publishing until all nodes are ready and all followers have the retained
// messages, which must be the acknowledged ones or newer.
func (r *run) converge(after string) {
	r.pausing.Lock()
	defer r.pausing.Unlock()
	r.nodes.waitReady()
	if !r.checker.ok() {
		return
	}
	begun := time.Now()
	var behind []string
	if testkit.Within(r.patience, func() bool { behind = r.behind(); return len(behind) == 0 || !r.checker.ok() }) {
		r.logf("converged after %.1f s", time.Since(begun).Seconds())
		return
	}
	r.checker.Add(history.Convergence, "%s: %v after all faults have healed there are %d differences: %s",
		after, r.patience, len(behind), strings.Join(behind[:min(len(behind), 30)], "; "))
}

// behind returns the differences that remain until all have converged.
func (r *run) behind() (differences []string) {
	for _, f := range r.followers {
		if !f.subscribed() {
			differences = append(differences, f.name+" is not subscribed")
		}
	}
	retained, err := r.retained()
	if err != nil {
		return append(differences, err.Error())
	}
	return append(differences, r.checker.behind(retained)...)
}

// retained asks any node for the versions of the retained messages.
func (r *run) retained() (map[string]history.Version, error) {
	ctx, cancel := context.WithTimeout(context.Background(), testkit.Patience)
	defer cancel()
	b, err := r.nodes.any(ctx, r.rand)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+b.node.addr+"/admin/topics?limit=1000", nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Fastly-Key", adminToken)
	resp, err := b.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var page struct {
		Topics []struct{ Topic, Version string }
		Next   string
	}
	if err := json.NewDecoder(resp.Body).Decode(&page); err != nil || resp.StatusCode != http.StatusOK || page.Next != "" {
		return nil, fmt.Errorf("%s: GET /admin/topics: %s, %v", b.node.name, resp.Status, err)
	}
	retained := map[string]history.Version{}
	for _, t := range page.Topics {
		if t.Version == "" {
			continue // it has only subscribers
		}
		if retained[t.Topic], err = history.ParseVersion(t.Version); err != nil {
			return nil, err
		}
	}
	return retained, nil
}

// end ends the clients and the nodes.
func (r *run) end() {
	r.stop()
	r.publishing.Wait()
	r.reading.Wait()
	for _, n := range r.nodes {
		if r.checker.ok() {
			n.terminate()
		}
	}
	c := r.checker.counts
	r.logf("%d messages were begun, %d acknowledged, %d were clears; %d deliveries; %d connections, %d refused",
		c.begun, c.acknowledged, c.clears, c.delivered, c.connections, c.refused)
}
