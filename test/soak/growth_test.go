//go:build linux

package main

import (
	"io"
	"os/exec"
	"testing"
	"time"

	"pubsub/internal/testkit"
	"pubsub/internal/testkit/history"
	"pubsub/internal/testkit/process"
)

// steady returns samples of a process that varies and does not grow.
func steady() (ss []sample) {
	for i := range 90 {
		v := float64(i % 7)
		ss = append(ss, sample{resident: 100<<20 + v*1e6, heap: 20<<20 + v*5e5, goroutines: 30 + v, descriptors: 5030 + v, connections: 5000 + v})
	}
	return ss
}

func TestGrowth(t *testing.T) {
	for _, c := range []struct {
		name string
		grow func(s *sample, i float64)
		want int
	}{
		{"steady", func(s *sample, i float64) {}, 0},
		{"more subscribers", func(s *sample, i float64) { s.connections += i; s.descriptors += i }, 0},
		{"at the beginning", func(s *sample, i float64) { s.resident += min(i, 30) * 1e6; s.heap += min(i, 30) * 1e6 }, 0},
		{"resident", func(s *sample, i float64) { s.resident += i * 3e5 }, 1},
		{"heap", func(s *sample, i float64) { s.heap += i * 1e5 }, 1},
		{"goroutines", func(s *sample, i float64) { s.goroutines += i * 1.2 }, 1},
		{"descriptors", func(s *sample, i float64) { s.descriptors += i * 1.2 }, 1},
	} {
		ss := steady()
		for i := range ss {
			c.grow(&ss[i], float64(i))
		}
		v := new(history.Violations)
		checkGrowth(ss, "auto", v)
		if len(v.All()[history.Growth]) != c.want || len(v.All()) > c.want {
			t.Errorf("%s: violations %v, want %d", c.name, v.All(), c.want)
		}
	}
	// The portable holder has a goroutine for each connection.
	ss := steady()
	for i := range ss {
		ss[i].connections += float64(i) * 10
		ss[i].descriptors += float64(i) * 10
		ss[i].goroutines = ss[i].connections + 30
	}
	v := new(history.Violations)
	checkGrowth(ss, "portable", v)
	if v.Any() {
		t.Errorf("violations %v, want none", v.All())
	}
	checkGrowth(ss, "auto", v)
	if len(v.All()[history.Growth]) != 1 {
		t.Error("goroutines that grow with the connections are not noticed")
	}
}

func TestRest(t *testing.T) {
	before := sample{goroutines: 30, descriptors: 20, m: process.Metrics{}}
	for _, c := range []struct {
		name string
		left sample
		want int
	}{
		{"nothing", before, 0},
		{"files", sample{goroutines: 35, descriptors: 28, m: process.Metrics{}}, 0},
		{"goroutines", sample{goroutines: 60, descriptors: 20, m: process.Metrics{}}, 1},
		{"descriptors", sample{goroutines: 30, descriptors: 50, m: process.Metrics{}}, 1},
		{"a connection", sample{goroutines: 30, descriptors: 20, m: process.Metrics{`pubsub_connections{transport="sse"}`: 1}}, 1},
		{"a subscription", sample{goroutines: 30, descriptors: 20, m: process.Metrics{"pubsub_subscriptions": 1}}, 1},
		{"a backlog", sample{goroutines: 30, descriptors: 20, m: process.Metrics{"pubsub_backlog_bytes": 200}}, 1},
	} {
		v := new(history.Violations)
		checkRest(&before, &c.left, v)
		if len(v.All()[history.Growth]) != c.want || len(v.All()) > c.want {
			t.Errorf("%s: violations %v, want %d", c.name, v.All(), c.want)
		}
	}
}

// The broker's metrics must agree with the messages that were sent.
func TestMetrics(t *testing.T) {
	right := func() process.Metrics {
		return process.Metrics{
			`pubsub_messages_published_total{retain="false",transport="http"}`: 3,
			`pubsub_messages_published_total{retain="true",transport="mqtt"}`:  2,
			`pubsub_messages_dropped_total{reason="slow-subscriber"}`:          0,
		}
	}
	for _, c := range []struct {
		name  string
		wrong func(process.Metrics)
		want  history.Kind
	}{
		{"right", func(process.Metrics) {}, ""},
		{"one more", func(m process.Metrics) { m[`pubsub_messages_published_total{retain="true",transport="http"}`] = 1 }, history.Broker},
		{"one less", func(m process.Metrics) { m[`pubsub_messages_published_total{retain="true",transport="mqtt"}`] = 1 }, history.Broker},
		{"a publish dropped", func(m process.Metrics) { m[`pubsub_publishes_dropped_total{reason="forbidden"}`] = 1 }, history.Broker},
		{"a delivery dropped", func(m process.Metrics) { m[`pubsub_messages_dropped_total{reason="packet-too-large"}`] = 1 }, history.Broker},
		{"one refused", func(m process.Metrics) { m[`pubsub_connections_refused_total{reason="forbidden"}`] = 1 }, history.Broker},
		{"a failure", func(m process.Metrics) { m[`pubsub_errors_total{op="publish"}`] = 1 }, history.Broker},
		{"a loss of no subscriber", func(m process.Metrics) { m[`pubsub_messages_dropped_total{reason="slow-subscriber"}`] = 1 }, history.Account},
	} {
		r := &run{violations: new(history.Violations), out: io.Discard}
		r.http.plain.Store(3)
		r.mqtt.retained.Store(2)
		m := right()
		c.wrong(m)
		r.checkMetrics(m)
		if c.want == "" && r.violations.Any() || c.want != "" && (len(r.violations.All()) != 1 || len(r.violations.All()[c.want]) != 1) {
			t.Errorf("%s: violations %v, want %q", c.name, r.violations.All(), c.want)
		}
	}
}

// The broker must close a connection that takes nothing, unless it cannot know.
func TestCutOffs(t *testing.T) {
	for _, c := range []struct {
		holder           string
		freezes, cutOffs uint64
		fine             bool
	}{{"auto", 0, 0, true}, {"auto", 3, 2, true}, {"auto", 3, 0, false}, {"portable", 3, 0, true}} {
		crowd := newCrowd("", time.Minute, new(history.Violations))
		crowd.freezes.Store(c.freezes)
		crowd.cutOffs.Store(c.cutOffs)
		crowd.checkCutOffs(c.holder)
		if crowd.violations.Any() == c.fine {
			t.Errorf("%+v: violations %v", c, crowd.violations.All())
		}
	}
}

// The broker's exit status and its log are checked.
func TestEndOfProcess(t *testing.T) {
	for _, c := range []struct {
		name, script string
		want         int
	}{
		{"well", `echo "{\"level\":\"INFO\"}" >&2; exit 0`, 0},
		{"with an error in the log", `echo "{\"level\":\"ERROR\"}" >&2; exit 0`, 1},
		{"with a panic", `echo "panic: bad" >&2; exit 0`, 1},
		{"with a status", `exit 3`, 1},
	} {
		cmd := exec.Command("sh", "-c", "trap '"+c.script+"' TERM; echo {}; while :; do sleep 0.05; done")
		p, err := process.Launch(cmd)
		if err != nil {
			t.Fatal(err)
		}
		testkit.Eventually(t, "the process is ready", func() bool { return p.Output() != "" })
		b := &broker{&process.Broker{Process: p}}
		v := new(history.Violations)
		b.stop(v)
		if len(v.All()[history.Broker]) != c.want || len(v.All()) > c.want {
			t.Errorf("%s: violations %v, want %d", c.name, v.All(), c.want)
		}
	}
}
