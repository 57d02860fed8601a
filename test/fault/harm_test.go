//go:build linux

package fault_test

import (
	"context"
	"os"
	"slices"
	"syscall"
	"time"

	"pubsub/internal/testkit"
)

// harm is something that goes wrong. begin lets it, and returns what heals it.
type harm struct {
	name  string
	begin func(r *run) (heal func())
}

// harms are all kinds.
var harms = []harm{
	{"a node is killed", (*run).killNode},
	{"a node is told to end", (*run).terminateNode},
	{"a node hangs", (*run).hangNode},
	{"clients leave", (*run).sendAway},
	{"a NATS server is stopped or killed", func(r *run) func() { return r.stopServers(1) }},
	{"two NATS servers are stopped or killed", func(r *run) func() { return r.stopServers(2) }},
	{"all NATS servers are stopped or killed", func(r *run) func() { return r.stopServers(3) }},
	{"a NATS server hangs", (*run).hangServer},
	{"a link is cut", (*run).cutLink},
	{"a node is cut off", (*run).cutOff},
	{"a node hears nothing", func(r *run) func() { return r.silence(true, false) }},
	{"a node is not heard", func(r *run) func() { return r.silence(false, true) }},
	{"a node neither hears nor is heard", func(r *run) func() { return r.silence(true, true) }},
	{"a NATS server is cut off from the others", (*run).cutServer},
	{"NATS servers are cut off from one another", func(r *run) func() { return cut(r.routes.all()...) }},
	{"NATS servers do not hear one another", (*run).silenceRoutes},
}

// pause waits for a random time.
func (r *run) pause(d time.Duration) { pause(context.Background(), r.rand, d) }

// aNode returns a node that nothing has been done to since all had healed.
func (r *run) aNode() *node {
	i := r.rand.IntN(len(r.untouched))
	n := r.untouched[i]
	r.untouched = append(r.untouched[:i:i], r.untouched[i+1:]...)
	return n
}

func (r *run) killNode() func() {
	n := r.aNode()
	n.kill()
	return n.start
}

func (r *run) terminateNode() func() {
	n := r.aNode()
	n.terminate()
	return n.start
}

// hangs is how long something hangs at most, or a NATS server is cut off: long enough
// for others to give it up.
const hangs = 8 * time.Second

// hang has a process stand still for a while, and then go on where it was.
func (r *run) hang(p *os.Process) func() {
	p.Signal(syscall.SIGSTOP)
	done := make(chan struct{})
	// By itself: before all is healed, publishers wait for its answers.
	time.AfterFunc(time.Duration(r.rand.Int64N(int64(hangs))), func() {
		p.Signal(syscall.SIGCONT)
		close(done)
	})
	return func() { <-done }
}

func (r *run) hangNode() func() { return r.hang(r.aNode().current().cmd.Process) }

func (r *run) hangServer() func() {
	s := r.servers[r.rand.IntN(len(r.servers))]
	if s.cmd == nil {
		return func() {} // another harm has stopped it
	}
	return r.hang(s.cmd.Process)
}

// sendAway has half of the followers leave, and come back.
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
		if s.cmd == nil {
			continue // by another harm
		}
		if r.rand.IntN(2) == 0 {
			r.say("%s is killed", s.name)
			s.kill()
		} else {
			r.say("%s is stopped", s.name)
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

// cutLink cuts the link that a node uses: it has others.
func (r *run) cutLink() func() {
	return cut(slices.DeleteFunc(slices.Clone(r.aNode().links), func(l *testkit.Proxy) bool { return !l.InUse() })...)
}

// cutOff cuts all links of a node.
func (r *run) cutOff() func() { return cut(r.aNode().links...) }

// cutServer cuts a NATS server off from the others, mostly until they have noticed.
func (r *run) cutServer() func() {
	heal := cut(r.routes.of(r.rand.IntN(len(r.servers)))...)
	r.pause(hangs)
	return heal
}

// silence has nothing come through the links of a node. When it ends, what has waited
// comes after all, or is lost with the connections.
func (r *run) silence(deaf, mute bool) func() {
	return silence(r.aNode().links, deaf, mute, r.rand.IntN(2) == 0)
}

// silenceRoutes has nothing come through the routes. What comes late may have been
// published before what a node has published by another server.
func (r *run) silenceRoutes() func() { return silence(r.routes.all(), true, true, r.rand.IntN(2) == 0) }

// silence has nothing come through links.
func silence(links []*testkit.Proxy, deaf, mute, lost bool) (heal func()) {
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
