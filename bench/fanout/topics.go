//go:build linux

package main

import (
	"fmt"
	"time"

	"pubsub/bench/internal/report"
)

// topics measures subscribers that have a topic of their own.
func (o *options) topics(ts []named, _ string) error {
	var rows [][]string
	for _, t := range own(ts) {
		var bytes, inUse, connects []float64
		for round := range o.rounds {
			report.Progress("topics: round %d of %d, %s", round+1, o.rounds, t.transport)
			rss, used, took, err := o.topicEach(t)
			if err != nil {
				return fmt.Errorf("%s: %w", t.transport, err)
			}
			n := float64(o.subscribers)
			bytes, inUse, connects = append(bytes, rss/n), append(inUse, used/n), append(connects, n/took.Seconds())
		}
		rows = append(rows, []string{t.transport,
			fmt.Sprintf("%.0f", report.Median(bytes)), fmt.Sprintf("%.0f", report.Median(inUse)), fmt.Sprintf("%.0f", report.Median(connects))})
	}
	report.Table(fmt.Sprintf("%d topics of one subscriber each; medians of %d rounds", o.subscribers, o.rounds),
		[]string{"bytes/subscriber", "of which heap and stacks", "connects/s"}, rows)
	return nil
}

// topicEach returns by how many bytes resident memory grows, and how many of them are heap and
// stacks.
func (o *options) topicEach(t *ours) (rss, inUse float64, took time.Duration, err error) {
	b, err := startBroker(t.o, t.transport, "--in-memory")
	if err != nil {
		return 0, 0, 0, err
	}
	defer b.Stop()
	if err := o.warm(&b.server); err != nil {
		return 0, 0, 0, err
	}
	measure := func() (rss, inUse float64, err error) {
		if rss, err = b.Memory(); err != nil {
			return 0, 0, err
		}
		inUse, err = b.inUse()
		return rss, inUse, err
	}
	rssBefore, inUseBefore, err := measure()
	if err != nil {
		return 0, 0, 0, err
	}
	subs, took, err := b.connect(o.subscribers, func(i int) string { return fmt.Sprintf("user/%d", i) }, false)
	if err != nil {
		return 0, 0, 0, err
	}
	defer subs.Close()
	rss, inUse, err = measure()
	return rss - rssBefore, inUse - inUseBefore, took, err
}
