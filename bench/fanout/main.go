//go:build linux

// Fanout measures a broker from outside: it builds and starts one, connects many
// subscribers to one topic, publishes, and prints what that cost the broker's
// process. Both share the machine, so that only figures of one run compare.
//
//	go run ./bench/fanout -subscribers 10000
package main

import (
	"flag"
	"fmt"
	"log"
	"os"
	"runtime"
	"time"
)

// options are what a run measures.
type options struct {
	binary      string
	holder      string
	subscribers int
	size        int
	rate        int
	seconds     int
	rounds      int
	window      int
	publishers  int
	publishing  time.Duration
}

func main() {
	log.SetFlags(0)
	var o options
	flag.StringVar(&o.binary, "binary", "", "the broker's binary; built from this tree if empty")
	flag.StringVar(&o.holder, "holder", "auto", "who holds connections: auto or portable")
	flag.IntVar(&o.subscribers, "subscribers", 10000, "subscribers of one topic; a process may need that many file descriptors")
	flag.IntVar(&o.size, "size", 128, "bytes of a message, 32 at least")
	flag.IntVar(&o.rate, "rate", 20, "messages a second of the paced phase")
	flag.IntVar(&o.seconds, "seconds", 10, "how long a phase of deliveries lasts")
	flag.IntVar(&o.rounds, "rounds", 3, "how often each phase is run; medians are printed")
	flag.IntVar(&o.window, "window", 32, "messages that the slowest subscriber may be behind in the unpaced phase")
	flag.IntVar(&o.publishers, "publishers", 64, "connections that publish")
	flag.DurationVar(&o.publishing, "publishing", 3*time.Second, "how long a phase of publishing lasts")
	flag.Parse()
	if err := o.run(); err != nil {
		log.Fatal("fanout: ", err)
	}
}

func (o *options) run() error {
	dir, err := os.MkdirTemp("", "pubsub-bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if o.binary == "" {
		if o.binary, err = build(dir); err != nil {
			return err
		}
	}
	fmt.Printf("%s, %s/%s, %d CPUs, kernel %s\n", runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), kernel())
	for _, kind := range []string{"sse", "mqtt"} {
		if err := o.deliveries(kind); err != nil {
			return fmt.Errorf("%s: %w", kind, err)
		}
	}
	return o.publishes(dir)
}

// deliveries measures idle subscribers and the fan-out to them.
func (o *options) deliveries(kind string) error {
	b, err := start(o.binary, o.holder, "")
	if err != nil {
		return err
	}
	defer b.stop()
	before, err := b.memory()
	if err != nil {
		return err
	}
	began := time.Now()
	subs, err := connect(b, kind, o.subscribers)
	if err != nil {
		return err
	}
	defer subs.close()
	took := time.Since(began)
	after, err := b.memory()
	if err != nil {
		return err
	}
	n := float64(o.subscribers)
	fmt.Printf("\n%s, holder %s, %d subscribers of one topic, %d-byte messages\n", kind, o.holder, o.subscribers, o.size)
	fmt.Printf("  connects/s                                  %9.0f\n", n/took.Seconds())
	fmt.Printf("  process memory per idle subscriber, RSS     %9.0f bytes\n", (after.rss-before.rss)/n)
	fmt.Printf("  of that in use (heap and stacks)            %9.0f bytes\n", (after.inUse-before.inUse)/n)

	idle, err := o.idle(b)
	if err != nil {
		return err
	}
	fmt.Printf("  CPU while idle, keep-alives included        %9.2f %% of a core\n", idle*100)

	p, err := newPublisher(b, "fan", o.size)
	if err != nil {
		return err
	}
	defer p.close()
	for _, ph := range []struct {
		name   string
		rate   int
		window int
	}{
		{fmt.Sprintf("%d messages/s", 5), 5, 0},
		{fmt.Sprintf("%d messages/s", o.rate), o.rate, 0},
		{"as fast as it goes", 0, o.window},
	} {
		var rs []result
		for range o.rounds {
			r, err := o.phase(b, subs, p, ph.rate, ph.window)
			if err != nil {
				return err
			}
			rs = append(rs, r)
		}
		fmt.Printf("  %-20s CPU s per million deliveries %6.2f  deliveries/s %8.0f  last of all, median %6.1f ms, p99 %6.1f ms  lost %d\n",
			ph.name,
			median(rs, func(r result) float64 { return r.cpu.Seconds() / float64(r.delivered) * 1e6 }),
			median(rs, func(r result) float64 { return float64(r.delivered) / r.took.Seconds() }),
			median(rs, func(r result) float64 { return quantile(r.last, 0.5).Seconds() * 1e3 }),
			median(rs, func(r result) float64 { return quantile(r.last, 0.99).Seconds() * 1e3 }),
			lost(rs))
	}
	return nil
}

// idle returns the share of a core that the broker takes while nothing happens.
func (o *options) idle(b *broker) (float64, error) {
	before, err := b.cpu()
	if err != nil {
		return 0, err
	}
	const span = 10 * time.Second
	time.Sleep(span)
	after, err := b.cpu()
	return (after - before).Seconds() / span.Seconds(), err
}

// result is what one run of a phase gave.
type result struct {
	delivered, lost int
	took, cpu       time.Duration
	last            []time.Duration // from each publish to its last delivery
}

// phase publishes to the subscribers for a while: paced at rate, or, with a
// window, as soon as the slowest subscriber is less than window messages behind.
func (o *options) phase(b *broker, subs *subscribers, p *publisher, rate, window int) (r result, err error) {
	subs.reset()
	cpu, err := b.cpu()
	if err != nil {
		return r, err
	}
	var sent []time.Time
	began := time.Now()
	for end := began.Add(time.Duration(o.seconds) * time.Second); time.Now().Before(end); {
		if rate > 0 {
			time.Sleep(time.Until(began.Add(time.Duration(len(sent)) * time.Second / time.Duration(rate))))
		} else if !subs.waitAll(len(sent)-window, lossTimeout) {
			break // something is lost
		}
		sent = append(sent, time.Now())
		if err := p.publish(len(sent) - 1); err != nil {
			return r, err
		}
	}
	subs.waitAll(len(sent), lossTimeout)
	r.took = time.Since(began)
	now, err := b.cpu()
	r.cpu = now - cpu
	r.delivered = subs.received()
	r.lost = len(sent)*o.subscribers - r.delivered
	r.last = subs.lastAfter(sent)
	return r, err
}

// lossTimeout is how long nothing may arrive before what is missing counts as
// lost.
const lossTimeout = 5 * time.Second
