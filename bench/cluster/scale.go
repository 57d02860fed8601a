//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"pubsub/bench/internal/load"
	"pubsub/bench/internal/report"
	"pubsub/internal/testkit/process"
)

// kinds of messages, in turn.
var kinds = []struct {
	name   string
	retain bool
}{{"plain", false}, {"retained", true}}

// usage is the memory or CPU time of a cluster's processes.
type usage struct {
	nodes, nats, load []float64 // by process
}

// scaled is the result of the part scale.
type scaled struct {
	subscribers            int               // of each node
	connecting             time.Duration     // of all subscribers
	before, idle, after    usage             // memory, bytes: before connecting, when all are connected, after publishing
	slabBefore, slabIdle   float64           // of the kernel, bytes
	cpuBefore, cpuAfter    usage             // seconds
	last                   [][]time.Duration // by kind: from each publish to its last delivery
	sent, received, missed int
	publishing             time.Duration
}

// scale measures a cluster whose nodes all have many subscribers of one topic.
func (o *options) scale(ctx context.Context, dir string) error {
	subscribers, why, err := o.fit()
	if err != nil {
		return err
	}
	if why != "" {
		fmt.Printf("\n%d subscribers a node in place of %d: %s\n", subscribers, o.subscribers, why)
	}
	r := &scaled{subscribers: subscribers, last: make([][]time.Duration, len(kinds))}
	if err := o.measureScale(ctx, filepath.Join(dir, "scale"), r); err != nil {
		return err
	}
	o.printScale(r)
	if r.missed > 0 {
		return fmt.Errorf("%d deliveries are lost", r.missed)
	}
	return nil
}

func (o *options) measureScale(ctx context.Context, dir string, r *scaled) error {
	const topic = "scale"
	progress("scale: starting %d nodes", o.nodes)
	c, err := o.startCluster(ctx, dir, o.nodes)
	if err != nil {
		return err
	}
	defer c.stop()
	if err := c.warm(o.size); err != nil {
		return err
	}
	crowds := make([]*crowd, o.nodes)
	for i := range crowds {
		if crowds[i], err = startCrowd(ctx); err != nil {
			return err
		}
		defer crowds[i].Stop()
	}
	if r.before, err = c.memory(crowds); err != nil {
		return err
	}
	if r.slabBefore, err = memInfo("Slab"); err != nil {
		return err
	}

	progress("scale: connecting %d subscribers", o.nodes*r.subscribers)
	began := time.Now()
	err = together(o.nodes, func(i int) error {
		_, err := crowds[i].ask(join{Addr: c.nodes[i].Addr, Topic: topic, Subscribers: r.subscribers, Key: c.key})
		return err
	})
	if err != nil {
		return err
	}
	r.connecting = time.Since(began)
	if r.slabIdle, err = memInfo("Slab"); err != nil {
		return err
	}
	if r.idle, err = c.memory(crowds); err != nil {
		return err
	}

	progress("scale: publishing %d messages", len(kinds)*o.messages)
	if r.cpuBefore, err = c.cpu(crowds); err != nil {
		return err
	}
	if err := o.publish(ctx, c, crowds, topic, r); err != nil {
		return err
	}
	if r.cpuAfter, err = c.cpu(crowds); err != nil {
		return err
	}
	r.after, err = c.memory(crowds)
	return err
}

// publish publishes messages of each kind, through the nodes in turn, each after all
// subscribers have received the one before. It ends early if a message is lost.
func (o *options) publish(ctx context.Context, c *cluster, crowds []*crowd, topic string, r *scaled) error {
	answers := make([]answer, len(crowds))
	began := time.Now()
	for r.sent < len(kinds)*o.messages && r.missed == 0 {
		time.Sleep(time.Until(began.Add(time.Duration(r.sent) * time.Second / time.Duration(o.rate))))
		kind, node := r.sent%len(kinds), r.sent/len(kinds)%len(c.nodes)
		at, err := o.publishOne(c.nodes[node], topic, kinds[kind].retain)
		if err != nil {
			return err
		}
		r.sent++
		err = together(len(crowds), func(i int) (err error) {
			answers[i], err = crowds[i].ask(await{Messages: r.sent})
			return err
		})
		if err != nil {
			return err
		}
		var last time.Duration
		r.received = 0
		for _, a := range answers {
			r.received += a.Received
			last = max(last, a.LastAt)
			if a.LastAt == 0 {
				r.missed += max(1, r.sent*r.subscribers-a.Received)
			}
		}
		if r.missed == 0 {
			r.last[kind] = append(r.last[kind], last-at)
		}
	}
	r.publishing = time.Since(began)
	return context.Cause(ctx)
}

// publishOne publishes a message and returns when it started, as load.Now counts.
func (o *options) publishOne(b *process.Broker, topic string, retain bool) (at time.Duration, err error) {
	// Each message has its own connection, because nodes close idle connections, and the next
	// message may take long.
	p, err := publisher(b, topic, retain, o.size)
	if err != nil {
		return 0, err
	}
	defer p.Close()
	at = load.Now()
	return at, p.Publish()
}

// memory returns the resident memory of all processes, in bytes.
func (c *cluster) memory(crowds []*crowd) (usage, error) {
	return c.usage(crowds, (*process.Process).Resident)
}

// cpu returns the CPU time of all processes, in seconds.
func (c *cluster) cpu(crowds []*crowd) (usage, error) {
	return c.usage(crowds, func(p *process.Process) (float64, error) {
		d, err := p.CPU()
		return d.Seconds(), err
	})
}

func (c *cluster) usage(crowds []*crowd, of func(*process.Process) (float64, error)) (u usage, err error) {
	u = usage{nodes: make([]float64, len(c.nodes)), nats: make([]float64, 1), load: make([]float64, len(crowds))}
	return u, errors.Join(
		together(len(c.nodes), func(i int) (err error) { u.nodes[i], err = of(c.nodes[i].Process); return err }),
		together(1, func(int) (err error) { u.nats[0], err = of(c.nats); return err }),
		together(len(crowds), func(i int) (err error) { u.load[i], err = of(crowds[i].Process); return err }),
	)
}

func sum(vs []float64) (s float64) {
	for _, v := range vs {
		s += v
	}
	return s
}

func (o *options) printScale(r *scaled) {
	all := o.nodes * r.subscribers
	fmt.Printf("\n%d subscribers of one topic, %d on each of %d nodes; %d-byte messages, one at a time\n", all, r.subscribers, o.nodes, o.size)
	fmt.Printf("  %.0f connects/s, %d messages in %.0f s\n", float64(all)/r.connecting.Seconds(), r.sent, r.publishing.Seconds())

	const mib = 1 << 20
	memory := func(name string, of func(usage) []float64, each float64) []string {
		row := []string{name}
		for _, u := range []usage{r.before, r.idle, r.after} {
			row = append(row, fmt.Sprintf("%.1f", report.Median(of(u))/mib))
		}
		for _, u := range []usage{r.idle, r.after} {
			row = append(row, fmt.Sprintf("%.0f", (sum(of(u))-sum(of(r.before)))/each))
		}
		return row
	}
	report.Table("resident memory, MiB (of a median process); bytes for each further subscriber",
		[]string{"none connected", "all connected", "after messages", "bytes/subscriber", "after messages"}, [][]string{
			memory("a node", func(u usage) []float64 { return u.nodes }, float64(all)),
			memory("NATS", func(u usage) []float64 { return u.nats }, float64(all)),
			memory("a process of subscribers", func(u usage) []float64 { return u.load }, float64(all)),
			{"the kernel, both ends of a connection", "", "", "", fmt.Sprintf("%.0f", (r.slabIdle-r.slabBefore)/float64(all)), ""},
		})

	var rows [][]string
	for k, kind := range kinds {
		row := []string{kind.name, fmt.Sprint(len(r.last[k]))}
		for _, q := range []float64{0.5, 0.99, 1} {
			row = append(row, fmt.Sprintf("%.1f", report.Milliseconds(report.Quantile(r.last[k], q))))
		}
		rows = append(rows, row)
	}
	report.Table(fmt.Sprintf("publish to the last of %d, ms", all), []string{"messages", "median", "p99", "max"}, rows)

	rows = nil
	for _, p := range []struct {
		name string
		of   func(usage) []float64
	}{
		{"the nodes", func(u usage) []float64 { return u.nodes }},
		{"NATS", func(u usage) []float64 { return u.nats }},
		{"the subscribers", func(u usage) []float64 { return u.load }},
	} {
		spent := sum(p.of(r.cpuAfter)) - sum(p.of(r.cpuBefore))
		rows = append(rows, []string{p.name, fmt.Sprintf("%.2f", spent/float64(r.received)*1e6), fmt.Sprintf("%.2f", spent/float64(r.sent)*1e3)})
	}
	report.Table("CPU", []string{"s per million deliveries", "ms per message"}, rows)
	fmt.Printf("\n%d deliveries, %d lost\n", r.received, r.missed)
}
