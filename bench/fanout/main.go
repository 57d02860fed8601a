//go:build linux

// Fanout measures brokers from outside: ours, others that are installed, and a
// loop that does no more than write to sockets. It starts each, connects many
// subscribers, publishes, and prints what that cost the processes. All share the
// machine with the load, so that only figures of one run compare.
//
//	go run ./bench/fanout -targets baseline,sse -parts fan
package main

import (
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"pubsub/bench/internal/report"
)

// options are what a run measures.
type options struct {
	binary      string
	holder      string
	serve       string
	tokens      string
	publish     string
	targets     string
	parts       string
	subscribers int
	size        int
	rate        int
	seconds     int
	idle        time.Duration
	rounds      int
	window      int
	publishers  int
	publishing  time.Duration
	profiles    string
}

// named is a target under the name that tables and the flag -targets give it.
type named struct {
	name string
	target
}

func allTargets() []named {
	return []named{
		{baseline, &loop{}},
		{"sse", &ours{transport: "sse"}},
		{"mqtt", &ours{transport: "mqtt"}},
		{"nchan", &nchan{}},
		{"mosquitto", &mosquitto{}},
		{"mosquitto-ws", &mosquitto{overWebSocket: true}},
		{"nats", &nats{}},
	}
}

const (
	baseline = "baseline"
	parts    = "fan,idle,topics,beside,storm,publish"
)

func main() {
	log.SetFlags(0)
	var names []string
	for _, t := range allTargets() {
		names = append(names, t.name)
	}
	var o options
	flag.StringVar(&o.binary, "binary", "", "our broker's binary; built from this tree if empty")
	flag.StringVar(&o.holder, "holder", "auto", "who holds our connections: auto or portable")
	flag.StringVar(&o.serve, "serve", "", "further flags of pubsub serve, separated by spaces")
	flag.StringVar(&o.tokens, "tokens", "own", "what our subscribers present: own, a JWT each, or admin, the admin token")
	flag.StringVar(&o.publish, "publish", "", "transport of what is published to our subscribers: http or mqtt; theirs if empty")
	flag.StringVar(&o.targets, "targets", strings.Join(names, ","), "what fan measures; the other parts are of ours, sse and mqtt")
	flag.StringVar(&o.parts, "parts", parts, "what is measured")
	flag.IntVar(&o.subscribers, "subscribers", 10000, "subscribers; a process may need that many file descriptors")
	flag.IntVar(&o.size, "size", 128, "bytes of a message, 32 at least")
	flag.IntVar(&o.rate, "rate", 20, "messages a second of the faster paced phase")
	flag.IntVar(&o.seconds, "seconds", 2, "how long a phase of deliveries lasts")
	flag.DurationVar(&o.idle, "idle", 30*time.Second, "how long nothing happens in the part idle")
	flag.IntVar(&o.rounds, "rounds", 3, "how often everything is run, the targets in turn; medians are printed")
	flag.IntVar(&o.window, "window", 32, "messages that the slowest subscriber may be behind in the unpaced phase")
	flag.IntVar(&o.publishers, "publishers", 64, "connections that publish")
	flag.DurationVar(&o.publishing, "publishing", 500*time.Millisecond, "how long a phase of publishing lasts")
	flag.StringVar(&o.profiles, "profiles", "", "directory for CPU profiles of our broker while it is published to")
	flag.Parse()
	if err := o.run(); err != nil {
		log.Fatal("fanout: ", err)
	}
}

func (o *options) run() error {
	// Readers and publishers take turns as the kernel says, not as this program's
	// scheduler does: it would keep one waiting for milliseconds.
	runtime.GOMAXPROCS(max(8, runtime.NumCPU()))
	dir, err := os.MkdirTemp("", "pubsub-bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-stop // servers end with this process
		os.RemoveAll(dir)
		os.Exit(1)
	}()

	ts, err := o.prepare(dir)
	if err != nil {
		return err
	}
	for _, part := range []struct {
		name string
		run  func([]named, string) error
	}{
		{"fan", o.fan},
		{"idle", o.silence},
		{"topics", o.topics},
		{"beside", o.beside},
		{"storm", o.storm},
		{"publish", o.publishes},
	} {
		if !slices.Contains(strings.Split(o.parts, ","), part.name) {
			continue
		}
		if err := part.run(ts, dir); err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
	}
	return nil
}

// prepare returns the targets that are wanted and installed, and prints what
// they are and where they run.
func (o *options) prepare(dir string) (ts []named, err error) {
	report.Heading("./bench/fanout")
	wanted := strings.Split(o.targets, ",")
	for _, t := range allTargets() {
		if !slices.Contains(wanted, t.name) {
			continue
		}
		version, err := t.prepare(o, dir)
		if _, own := t.target.(*ours); own && err != nil {
			return nil, err
		}
		if err != nil {
			fmt.Printf("  %-12s  skipped: %s\n", t.name, strings.Join(strings.Fields(err.Error()), " "))
			continue
		}
		fmt.Printf("  %-12s  %s\n", t.name, version)
		ts = append(ts, t)
	}
	return ts, nil
}

// own returns those of the targets that are ours.
func own(ts []named) (os []*ours) {
	for _, t := range ts {
		if o, ok := t.target.(*ours); ok {
			os = append(os, o)
		}
	}
	return os
}

// progress tells whoever waits; it is no part of the result.
func progress(format string, args ...any) { log.Printf("… "+format, args...) }
