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
)

// backplanes are the backplanes that the part latency compares.
var backplanes = []struct {
	name  string
	nodes int // on NATS
}{{"embedded", 0}, {"NATS", 2}}

// latencies are the quantiles of each round, in milliseconds.
type latencies struct{ p50, p99 []float64 }

// latency compares the latency of messages with the embedded store and through NATS to another
// node.
func (o *options) latency(ctx context.Context, dir string) error {
	audiences := []int{1, o.audience}
	// By backplane, kind and audience.
	ls := make([][][]latencies, len(backplanes))
	for b := range ls {
		ls[b] = make([][]latencies, len(kinds))
		for k := range ls[b] {
			ls[b][k] = make([]latencies, len(audiences))
		}
	}
	lost := 0
	for round := range o.rounds {
		for b, backplane := range backplanes {
			progress("latency: round %d of %d, %s", round+1, o.rounds, backplane.name)
			c, err := o.startCluster(ctx, filepath.Join(dir, fmt.Sprintf("latency.%d.%d", round, b)), backplane.nodes)
			if err != nil {
				return err
			}
			err = c.warm(o.size)
			for a := 0; a < len(audiences) && err == nil; a++ {
				for k := 0; k < len(kinds) && err == nil; k++ {
					var got load.Ages
					got, err = o.deliver(c, audiences[a], kinds[k].retain)
					l := &ls[b][k][a]
					l.p50 = append(l.p50, report.Milliseconds(report.Quantile(got.Ages, 0.5)))
					l.p99 = append(l.p99, report.Milliseconds(report.Quantile(got.Ages, 0.99)))
					lost += got.Lost
				}
			}
			c.stop()
			if err != nil {
				return fmt.Errorf("%s: %w", backplane.name, err)
			}
		}
	}
	var columns []string
	for _, n := range audiences {
		columns = append(columns, fmt.Sprintf("%d: p50", n), "p99")
	}
	var rows [][]string
	for k, kind := range kinds {
		for b, backplane := range backplanes {
			row := []string{kind.name + ", " + backplane.name}
			for a := range audiences {
				row = append(row, fmt.Sprintf("%.2f", report.Median(ls[b][k][a].p50)), fmt.Sprintf("%.2f", report.Median(ls[b][k][a].p99)))
			}
			rows = append(rows, row)
		}
	}
	report.Table(fmt.Sprintf("publish to receipt by 1 and by %d subscribers, %d messages/s of %d bytes, ms; medians of %d rounds of %v", o.audience, o.pace, o.size, o.rounds, o.phase),
		columns, rows)
	fmt.Printf("\n%d deliveries lost\n", lost)
	if lost > 0 {
		return fmt.Errorf("%d deliveries are lost", lost)
	}
	return nil
}

// deliver publishes through the first node to n subscribers of the last one.
func (o *options) deliver(c *cluster, n int, retain bool) (got load.Ages, err error) {
	const topic = "latency"
	hs, err := handshakes(c.key, topic, n)
	if err != nil {
		return got, err
	}
	subs, _, err := load.Connect(c.nodes[len(c.nodes)-1].Addr, hs, true)
	if err != nil {
		return got, err
	}
	defer subs.Close()
	p, err := publisher(c.nodes[0], topic, retain, o.size)
	if err != nil {
		return got, err
	}
	defer p.Close()
	enough := make(chan struct{})
	time.AfterFunc(o.phase, func() { close(enough) })
	if got, err = load.Paced(subs, p, o.pace, enough); err == nil && len(got.Ages) == 0 {
		err = errors.New("no message has arrived")
	}
	return got, err
}
