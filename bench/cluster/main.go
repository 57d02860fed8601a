//go:build linux

// Cluster measures a cluster on one machine from outside: nodes of ours on a real NATS server.
// It starts them, connects very many subscribers of one topic to all of them, and publishes. It
// prints how long a message takes to the last subscriber, and at what cost, and how much longer
// a message takes through NATS than with the embedded store. It exits with 1 if a delivery is
// lost.
//
//	go run ./bench/cluster -nodes 3 -subscribers 500
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"pubsub/bench/internal/report"
	"pubsub/internal/testkit/natsserver"
	"pubsub/internal/testkit/process"
)

// options are the flags of a run.
type options struct {
	binary      string
	serve       string
	parts       string
	nodes       int
	subscribers int
	messages    int
	rate        int
	size        int
	audience    int
	pace        int
	rounds      int
	phase       time.Duration
}

const parts = "scale,latency"

// adminToken is the token of brokers that live as long as a measurement, on loopback.
const adminToken = "bench"

func main() {
	log.SetFlags(0)
	// The other processes of a run are this program, too.
	natsserver.Main()
	if len(os.Args) > 1 && os.Args[1] == crowdRole {
		if err := serveCrowd(os.Args[2:]); err != nil {
			log.Fatalf("cluster: %s: %v", crowdRole, err)
		}
		return
	}
	o, err := parse(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends this process at once, and the others with it
	if err := o.run(ctx); err != nil {
		log.Fatal("cluster: ", err)
	}
}

// parse parses the flags, and prints an error in them.
func parse(args []string) (*options, error) {
	var o options
	fs := flag.NewFlagSet("cluster", flag.ContinueOnError)
	fs.StringVar(&o.binary, "binary", "", "our broker's binary; built from this tree if empty")
	fs.StringVar(&o.serve, "serve", "", "further flags of pubsub serve, separated by spaces")
	fs.StringVar(&o.parts, "parts", parts, "parts to measure")
	fs.IntVar(&o.nodes, "nodes", 10, "scale: nodes")
	fs.IntVar(&o.subscribers, "subscribers", 15000, "scale: subscribers of each node; its process and that of its subscribers need as many file descriptors")
	fs.IntVar(&o.messages, "messages", 30, "scale: messages of each kind, plain and retained")
	fs.IntVar(&o.rate, "rate", 5, "scale: messages a second at most; each is published after all subscribers have received the one before")
	fs.IntVar(&o.size, "size", 128, "bytes of a message, 32 at least")
	fs.IntVar(&o.audience, "audience", 1000, "latency: subscribers, besides a run with one")
	fs.IntVar(&o.pace, "pace", 100, "latency: messages a second")
	fs.IntVar(&o.rounds, "rounds", 5, "latency: rounds, whose medians are printed")
	fs.DurationVar(&o.phase, "phase", 2*time.Second, "latency: how long each kind of message is published")
	if err := fs.Parse(args); err != nil {
		return nil, err
	}
	if min(o.nodes, o.subscribers, o.messages, o.rate, o.audience, o.pace, o.rounds) < 1 || o.size < 32 || o.phase <= 0 || fs.NArg() > 0 {
		fs.Usage()
		return nil, errors.New("wrong use")
	}
	return &o, nil
}

// run measures, and returns when all processes that it has started have ended. When ctx is
// done, that is soon.
func (o *options) run(ctx context.Context) (err error) {
	// Let the kernel schedule readers and publishers. Go's scheduler would make some wait for
	// milliseconds.
	runtime.GOMAXPROCS(max(8, runtime.NumCPU()))
	dir, err := os.MkdirTemp("", "pubsub-bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	// After an interrupt, calls fail in many ways. Report the interrupt.
	defer func() {
		if err != nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
	}()
	if err := o.prepare(ctx, dir); err != nil {
		return err
	}
	for _, part := range []struct {
		name string
		run  func(context.Context, string) error
	}{
		{"scale", o.scale},
		{"latency", o.latency},
	} {
		if !slices.Contains(strings.Split(o.parts, ","), part.name) {
			continue
		}
		if err := part.run(ctx, dir); err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
	}
	return nil
}

// prepare builds the broker and prints the versions and the machine.
func (o *options) prepare(ctx context.Context, dir string) (err error) {
	if o.binary == "" {
		if o.binary, err = process.Build(ctx, dir); err != nil {
			return err
		}
	}
	version, err := exec.CommandContext(ctx, o.binary, "version").Output()
	if err != nil {
		return err
	}
	first, _, _ := strings.Cut(string(version), "\n")
	report.Heading("./bench/cluster")
	fmt.Printf("  nodes  %s\n  nats   nats-server %s, one, sync_interval: always\n", strings.TrimSpace(first+" "+o.serve), server.VERSION)
	return nil
}

// progress reports progress on standard error. It is not part of the result.
func progress(format string, args ...any) { log.Printf("… "+format, args...) }
