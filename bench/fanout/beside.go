//go:build linux

package main

import (
	"errors"
	"fmt"
	"time"

	"pubsub/bench/internal/load"
	"pubsub/bench/internal/report"
)

// The subscribers of the small topic, and its messages a second.
const (
	besideSubscribers = 10
	besideRate        = 50
)

// beside measures how long messages to a small topic take while the machine is busy with a
// large one. It does so once with a separate broker for the small topic, which shows the delay
// that is due to the machine and not to the broker.
func (o *options) beside(ts []named, _ string) error {
	var rows [][]string
	for _, t := range own(ts) {
		var quiet, loaded, apart []time.Duration
		var large []result
		missing := 0
		for round := range o.rounds {
			report.Progress("beside: round %d of %d, %s", round+1, o.rounds, t.transport)
			for _, alone := range []bool{false, true} {
				if alone && round > 0 {
					break // one round suffices
				}
				q, l, r, err := o.besideLarge(t, alone)
				if err != nil {
					return fmt.Errorf("%s: %w", t.transport, err)
				}
				missing += q.Lost + l.Lost + r.lost
				quiet = append(quiet, q.Ages...)
				if alone {
					apart = append(apart, l.Ages...)
				} else {
					loaded, large = append(loaded, l.Ages...), append(large, r)
				}
			}
		}
		rows = append(rows,
			append(ageCells(t.transport+", nothing else", quiet), "", ""),
			append(ageCells(t.transport+", full load, a broker of its own", apart), "", ""),
			append(ageCells(t.transport+", full load", loaded),
				fmt.Sprintf("%.0f", median(large, func(r result) float64 { return float64(r.delivered) / r.took.Seconds() })), fmt.Sprint(missing)))
	}
	report.Table(fmt.Sprintf("a topic of %d subscribers and %d messages/s beside one of %d subscribers and window %d: publish to receipt, ms; %d rounds",
		besideSubscribers, besideRate, o.subscribers, o.window, o.rounds),
		[]string{"median", "p99", "max", "deliveries/s of the large", "lost"}, rows)
	return nil
}

func ageCells(name string, ds []time.Duration) []string {
	cells := []string{name}
	for _, q := range []float64{0.5, 0.99, 1} {
		cells = append(cells, fmt.Sprintf("%.1f", report.Milliseconds(report.Quantile(ds, q))))
	}
	return cells
}

func (o *options) besideLarge(t *ours, alone bool) (quiet, loaded load.Ages, large result, err error) {
	s, err := t.start("")
	if err != nil {
		return quiet, loaded, large, err
	}
	defer s.Stop()
	small := s
	if alone {
		if small, err = t.start(""); err != nil {
			return quiet, loaded, large, err
		}
		defer small.Stop()
	}
	many, toMany, err := o.audience(s, o.subscribers, topic, false)
	if err != nil {
		return quiet, loaded, large, err
	}
	defer many.Close()
	defer toMany.Close()
	few, toFew, err := o.audience(small, besideSubscribers, "beside", true)
	if err != nil {
		return quiet, loaded, large, err
	}
	defer few.Close()
	defer toFew.Close()

	enough := make(chan struct{})
	time.AfterFunc(time.Second, func() { close(enough) })
	if quiet, err = load.Paced(few, toFew, besideRate, enough); err != nil {
		return quiet, loaded, large, err
	}
	enough = make(chan struct{})
	failed := make(chan error, 1)
	go func() {
		defer close(enough)
		var err error
		large, err = o.phase(s, many, toMany, phase{window: o.window})
		failed <- errors.Join(err, many.Failed())
	}()
	loaded, err = load.Paced(few, toFew, besideRate, enough)
	if largeErr := <-failed; largeErr != nil {
		err = largeErr
	}
	return quiet, loaded, large, err
}

// audience connects n subscribers of a topic, and a publisher to it.
func (o *options) audience(s *server, n int, topic string, stamped bool) (*load.Pool, *load.Publisher, error) {
	subs, _, err := s.connect(n, func(int) string { return topic }, stamped)
	if err != nil {
		return nil, nil, err
	}
	p, err := s.publisher(topic, o.size)
	if err != nil {
		subs.Close()
		return nil, nil, err
	}
	return subs, p, nil
}
