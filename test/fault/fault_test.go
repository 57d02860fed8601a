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
	"pubsub/internal/testkit/process"
	"pubsub/internal/token"
)

const (
	nodes   = 3
	servers = 3
	topics  = 200

	publishers  = 10 // every other one by POST, the others over MQTT
	streams     = 24
	sessions    = 20
	streamTakes = 10 // topics; the first streams have all of them together
	sessionGets = 40 // topics
)

// Whatever goes wrong, all that the history says is as the contract promises.
func TestFaults(t *testing.T) {
	t.Parallel()
	b, err := asItIs()
	if err != nil {
		t.Fatal(err)
	}
	r := newRun(t, b)
	// A node is killed first, so that clients come back in a short run, too.
	for begun, kinds := time.Now(), []int{0}; time.Since(begun) < *duration && r.well(); {
		if len(kinds) == 0 {
			kinds = r.rand.Perm(len(harms)) // each comes before any comes again
		}
		suffered := []harm{harms[kinds[0]]}
		kinds = kinds[1:]
		if r.rand.IntN(3) == 0 {
			suffered = append(suffered, harms[r.rand.IntN(len(harms))])
		}
		r.suffer(suffered...)
	}
	r.end()
	for _, f := range r.history.found() {
		t.Error(f)
	}
	if c := r.history.counts; c.acknowledged == 0 || c.delivered == 0 || c.connections <= len(r.followers) {
		t.Errorf("nothing has gone wrong, but not much has happened: %+v", c)
	}
	if t.Failed() {
		t.Log(r.fleet.logs())
	}
}

// run is a cluster, its clients, and their history.
type run struct {
	// immutable
	t       testing.TB
	begun   time.Time
	history *history
	servers []*natsServer
	routes  routes // between them
	fleet   fleet

	followers           []*follower
	stop                context.CancelFunc // of all clients
	publishing, reading sync.WaitGroup
	still               sync.RWMutex

	// owned by the test's goroutine
	rand      *rand.Rand
	untouched []*node       // see aNode
	patience  time.Duration // for all to converge
}

// newRun returns a cluster of which all followers have all that was published.
func newRun(t testing.TB, binary string) *run {
	t.Helper()
	r := &run{t: t, begun: time.Now(), patience: testkit.Patience, history: newHistory(), rand: newRand(0)}
	r.servers, r.routes = newNATS(t, servers)
	logs := t.TempDir()
	for i := range nodes {
		n := newNode(t, fmt.Sprint("node ", i), binary, logs, r.servers, r.history)
		r.fleet = append(r.fleet, n)
		n.start()
	}
	r.fleet.ready()
	key, err := process.CreateKey(r.fleet[0].addr, adminToken)
	if err != nil {
		t.Fatal(err)
	}
	http.DefaultClient.CloseIdleConnections() // by which the key came
	var all []string
	for i := range topics {
		all = append(all, fmt.Sprint("t", i))
		r.history.add(all[i])
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
	r.converge("at first")
	return r
}

// follow starts the followers.
func (r *run) follow(ctx context.Context, all []string, bearer string) {
	order := r.rand.Perm(len(all))
	for i := range streams + sessions {
		f := &follower{token: bearer, fleet: r.fleet, history: r.history, rand: newRand(1000 + uint64(i))}
		var takes []int
		switch {
		case i < len(all)/streamTakes:
			takes = order[i*streamTakes : (i+1)*streamTakes]
		case i < streams:
			takes = r.rand.Perm(len(all))[:streamTakes]
		default:
			takes = r.rand.Perm(len(all))[:sessionGets]
		}
		for _, k := range takes {
			f.topics = append(f.topics, all[k])
		}
		if i < streams {
			f.name, f.connect = fmt.Sprint("stream ", i), openStream
		} else {
			f.name, f.connect = fmt.Sprint("session ", i-streams), openSession
		}
		r.history.follow(f.name, i < streams, f.topics)
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
			fleet: r.fleet, history: r.history, still: &r.still, rand: newRand(2000 + uint64(i)), once: post,
		}
		if i%2 == 1 {
			p.once = publishBySession
		}
		r.publishing.Go(func() { p.publish(ctx) })
	}
}

func (r *run) say(format string, args ...any) {
	r.t.Logf("%6.1f s  %s", time.Since(r.begun).Seconds(), fmt.Sprintf(format, args...))
}

// well reports whether nothing is wrong so far.
func (r *run) well() bool { return len(r.history.found()) == 0 }

// suffer has harms be done, heals them, and has all converge.
func (r *run) suffer(hs ...harm) {
	r.untouched = append([]*node(nil), r.fleet...)
	var names []string
	var heals []func()
	for _, h := range hs {
		names = append(names, h.name)
		heals = append(heals, h.begin(r))
		r.pause(time.Second)
	}
	what := strings.Join(names, ", and ")
	r.say("%s", what)
	// Whatever is published when all has healed may repair what was lost before.
	during := r.rand.IntN(2) == 0
	if during {
		r.still.Lock()
	}
	r.pause(2 * time.Second)
	for _, i := range r.rand.Perm(len(heals)) {
		heals[i]()
	}
	if during {
		r.still.Unlock()
	}
	r.converge(what)
	r.pause(time.Second)
}

// converge has nothing be published until all nodes are ready and all followers have
// what is retained, which is what was acknowledged, or newer.
func (r *run) converge(after string) {
	r.still.Lock()
	defer r.still.Unlock()
	r.fleet.ready()
	if !r.well() {
		return
	}
	begun := time.Now()
	var behind []string
	if testkit.Within(r.patience, func() bool { behind = r.behind(); return len(behind) == 0 || !r.well() }) {
		r.say("all have converged after %.1f s", time.Since(begun).Seconds())
		return
	}
	r.history.fault("convergence", "%s: %v after all has healed there are %d differences: %s",
		after, r.patience, len(behind), strings.Join(behind[:min(len(behind), 30)], "; "))
}

// behind says what is not yet as it is to be in the end.
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
	return append(differences, r.history.behind(retained)...)
}

// retained asks any node what is retained.
func (r *run) retained() (map[string]version, error) {
	ctx, cancel := context.WithTimeout(context.Background(), testkit.Patience)
	defer cancel()
	b, err := r.fleet.any(ctx, r.rand)
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
	retained := map[string]version{}
	for _, t := range page.Topics {
		if t.Version == "" {
			continue // it only has subscribers
		}
		if retained[t.Topic], err = parseVersion(t.Version); err != nil {
			return nil, err
		}
	}
	return retained, nil
}

// end ends the clients, the nodes, and what they look at.
func (r *run) end() {
	r.stop()
	r.publishing.Wait()
	r.reading.Wait()
	for _, n := range r.fleet {
		if r.well() {
			n.terminate()
		}
	}
	c := r.history.counts
	r.say("%d messages were begun, %d acknowledged, %d were clears; %d deliveries; %d connections, %d refused",
		c.begun, c.acknowledged, c.clears, c.delivered, c.connections, c.refused)
}
