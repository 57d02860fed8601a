//go:build linux

package fault_test

import (
	"context"
	"slices"
	"syscall"
	"time"

	"pubsub/internal/testkit"
	"pubsub/internal/testkit/process"
)

// fault is a kind of fault. inject injects it and returns a function that heals it.
type fault struct {
	name   string
	inject func(r *run) (heal func())
}

// faults are all kinds.
var faults = []fault{
	{"a node is killed", (*run).killNode},
	{"a node is terminated", (*run).terminateNode},
	{"a node hangs", (*run).hangNode},
	{"clients leave", (*run).sendAway},
	{"a NATS server is stopped or killed", func(r *run) func() { return r.stopServers(1) }},
	{"two NATS servers are stopped or killed", func(r *run) func() { return r.stopServers(2) }},
	{"all NATS servers are stopped or killed", func(r *run) func() { return r.stopServers(3) }},
	{"a NATS server hangs", (*run).hangServer},
	{"a link is cut", (*run).cutLink},
	{"a node is cut off", (*run).cutOff},
	{"a node receives nothing", func(r *run) func() { return r.silence(true, false) }},
	{"a node sends nothing", func(r *run) func() { return r.silence(false, true) }},
	{"a node receives and sends nothing", func(r *run) func() { return r.silence(true, true) }},
	{"a NATS server is cut off from the others", (*run).cutServer},
	{"NATS servers are cut off from one another", func(r *run) func() { return cut(r.routes.all()...) }},
	{"NATS servers receive nothing from one another", (*run).silenceRoutes},
}

// pause waits for a random time below d.
func (r *run) pause(d time.Duration) { pause(context.Background(), r.rand, d) }

// anyNode returns a node without a fault since all have healed.
func (r *run) anyNode() *node {
	i := r.rand.IntN(len(r.untouched))
	n := r.untouched[i]
	r.untouched = append(r.untouched[:i:i], r.untouched[i+1:]...)
	return n
}

func (r *run) killNode() func() {
	n := r.anyNode()
	n.kill()
	return n.start
}

func (r *run) terminateNode() func() {
	n := r.anyNode()
	n.terminate()
	return n.start
}

// longest is how long a process hangs at most, or a NATS server is cut off: long enough that
// others give it up.
const longest = 8 * time.Second

// hang stops a process for a random time, after which it continues.
func (r *run) hang(p *process.Process) func() {
	p.Signal(syscall.SIGSTOP)
	done := make(chan struct{})
	// It continues by itself, because publishers wait for its answers before heal is called.
	time.AfterFunc(time.Duration(r.rand.Int64N(int64(longest))), func() {
		p.Signal(syscall.SIGCONT)
		close(done)
	})
	return func() { <-done }
}

func (r *run) hangNode() func() { return r.hang(r.anyNode().current().Process) }

func (r *run) hangServer() func() {
	s := r.servers[r.rand.IntN(len(r.servers))]
	if s.process == nil {
		return func() {} // another fault has stopped it
	}
	return r.hang(s.process)
}

// sendAway makes half of the followers leave. They connect again.
func (r *run) sendAway() func() {
	for _, f := range r.followers {
		if r.rand.IntN(2) == 0 {
			f.leave()
		}
	}
	return func() {}
}

// stopServers stops or kills some NATS servers, one after the other.
func (r *run) stopServers(count int) func() {
	var stopped []*natsServer
	for _, i := range r.rand.Perm(len(r.servers))[:count] {
		s := r.servers[i]
		if s.process == nil {
			continue // another fault has stopped it
		}
		if r.rand.IntN(2) == 0 {
			r.logf("%s is killed", s.name)
			s.kill()
		} else {
			r.logf("%s is stopped", s.name)
			s.stop()
		}
		stopped = append(stopped, s)
		r.pause(300 * time.Millisecond)
	}
	return func() {
		for _, s := range stopped {
			s.start()
			r.pause(300 * time.Millisecond)
		}
	}
}

// cut cuts links.
func cut(links ...*testkit.Proxy) (heal func()) {
	for _, l := range links {
		l.SetCut(true)
	}
	return func() {
		for _, l := range links {
			l.SetCut(false)
		}
	}
}

// cutLink cuts the link that a node uses. It has others.
func (r *run) cutLink() func() {
	return cut(slices.DeleteFunc(slices.Clone(r.anyNode().links), func(l *testkit.Proxy) bool { return !l.InUse() })...)
}

// cutOff cuts all links of a node.
func (r *run) cutOff() func() { return cut(r.anyNode().links...) }

// cutServer cuts a NATS server off from the others, mostly until they notice it.
func (r *run) cutServer() func() {
	heal := cut(r.routes.of(r.rand.IntN(len(r.servers)))...)
	r.pause(longest)
	return heal
}

// silence silences the links of a node. When it heals, bytes that have waited in the links
// arrive, or are lost with the connections.
func (r *run) silence(deaf, mute bool) func() {
	return silenceLinks(r.anyNode().links, deaf, mute, r.rand.IntN(2) == 0)
}

// silenceRoutes silences the routes. A message that arrives late may have been published before
// one that its node has published through another server.
func (r *run) silenceRoutes() func() {
	return silenceLinks(r.routes.all(), true, true, r.rand.IntN(2) == 0)
}

// silenceLinks silences links. lost cuts their connections when it heals.
func silenceLinks(links []*testkit.Proxy, deaf, mute, lost bool) (heal func()) {
	for _, l := range links {
		l.SetSilent(deaf, mute)
	}
	return func() {
		if lost {
			cut(links...)()
		}
		for _, l := range links {
			l.SetSilent(false, false)
		}
	}
}
