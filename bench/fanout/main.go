//go:build linux

// Fanout measures brokers from outside: ours, other installed brokers, and a loop that only
// writes to sockets. It starts each of them, connects many subscribers, publishes, and prints
// the cost. The load runs on the same machine, so only results of one run can be compared.
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

// options are the flags of a run.
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

// named is a target with its name in tables and in the flag -targets.
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
	flag.StringVar(&o.holder, "holder", "auto", "holder of our connections: auto or portable")
	flag.StringVar(&o.serve, "serve", "", "further flags of pubsub serve, separated by spaces")
	flag.StringVar(&o.tokens, "tokens", "own", "tokens of our subscribers: own, a JWT each, or admin, the admin token")
	flag.StringVar(&o.publish, "publish", "", "transport of our publishers: http or mqtt; that of the subscribers if empty")
	flag.StringVar(&o.targets, "targets", strings.Join(names, ","), "targets of the part fan; the other parts measure only ours, sse and mqtt")
	flag.StringVar(&o.parts, "parts", parts, "parts to measure")
	flag.IntVar(&o.subscribers, "subscribers", 10000, "subscribers; a process may need as many file descriptors")
	flag.IntVar(&o.size, "size", 128, "bytes of a message, 32 at least")
	flag.IntVar(&o.rate, "rate", 20, "messages a second of the faster paced phase")
	flag.IntVar(&o.seconds, "seconds", 2, "how long a phase of deliveries lasts")
	flag.DurationVar(&o.idle, "idle", 30*time.Second, "how long the part idle lasts")
	flag.IntVar(&o.rounds, "rounds", 3, "rounds, with the targets in turn; medians are printed")
	flag.IntVar(&o.window, "window", 32, "messages that the slowest subscriber may be behind in the unpaced phase")
	flag.IntVar(&o.publishers, "publishers", 64, "connections of publishers")
	flag.DurationVar(&o.publishing, "publishing", 500*time.Millisecond, "how long a phase of publishing lasts")
	flag.StringVar(&o.profiles, "profiles", "", "directory for CPU profiles of our broker in the part publish")
	flag.Parse()
	if err := o.run(); err != nil {
		log.Fatal("fanout: ", err)
	}
}

func (o *options) run() error {
	// Let the kernel schedule readers and publishers. Go's scheduler would make some wait for
	// milliseconds.
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

// prepare returns the selected targets that are installed, and prints their versions and the
// machine.
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

// own returns our own targets.
func own(ts []named) (os []*ours) {
	for _, t := range ts {
		if o, ok := t.target.(*ours); ok {
			os = append(os, o)
		}
	}
	return os
}

// progress reports progress on standard error. It is not part of the result.
func progress(format string, args ...any) { log.Printf("… "+format, args...) }
