//go:build linux

package main

import (
	"fmt"
	"time"

	"pubsub/bench/internal/load"
	"pubsub/bench/internal/report"
)

// stormConnected clients are connected before the storm, and receive stormRate messages a
// second during it. stormClients is the number of all clients, if a process may have as many
// descriptors.
const (
	stormConnected = 1000
	stormRate      = 10
	stormClients   = 19000
)

// storm measures how many clients that connect at once delay messages to connected clients,
// with our broker and with the baseline.
func (o *options) storm(ts []named, _ string) error {
	limit, err := report.Descriptors()
	if err != nil {
		return err
	}
	n := min(stormClients, limit-1000) - stormConnected
	if n <= 0 {
		return fmt.Errorf("a process may have only %d descriptors: raise ulimit -n", limit)
	}
	var rows [][]string
	for _, t := range ts {
		if _, own := t.target.(*ours); !own && t.name != baseline {
			continue
		}
		var calm, stormy []time.Duration
		var connects []float64
		missing := 0
		for round := range o.rounds {
			progress("storm: round %d of %d, %s", round+1, o.rounds, t.name)
			c, s, took, err := o.stormOnce(t, n)
			if err != nil {
				return fmt.Errorf("%s: %w", t.name, err)
			}
			calm, stormy, connects = append(calm, c.Ages...), append(stormy, s.Ages...), append(connects, float64(n)/took.Seconds())
			missing += c.Lost + s.Lost
		}
		rows = append(rows,
			append(ageCells(t.name+", calm", calm), "", ""),
			append(ageCells(t.name+", storm", stormy), fmt.Sprintf("%.0f", report.Median(connects)), fmt.Sprint(missing)))
	}
	report.Table(fmt.Sprintf("%d clients that receive %d messages/s while %d connect at once: publish to receipt, ms; %d rounds", stormConnected, stormRate, n, o.rounds),
		[]string{"median", "p99", "max", "connects/s", "lost"}, rows)
	return nil
}

func (o *options) stormOnce(t named, n int) (calm, stormy load.Ages, took time.Duration, err error) {
	s, err := t.start("")
	if err != nil {
		return calm, stormy, 0, err
	}
	defer s.Stop()
	hs, err := s.handshakes(stormConnected+n, func(i int) string {
		if i < stormConnected {
			return topic
		}
		return "other"
	})
	if err != nil {
		return calm, stormy, 0, err
	}
	connected, _, err := load.Connect(s.Addr, hs[:stormConnected], true)
	if err != nil {
		return calm, stormy, 0, err
	}
	defer connected.Close()
	p, err := s.publisher(topic, o.size)
	if err != nil {
		return calm, stormy, 0, err
	}
	defer p.Close()
	enough := make(chan struct{})
	time.AfterFunc(time.Duration(o.seconds)*time.Second, func() { close(enough) })
	if calm, err = load.Paced(connected, p, stormRate, enough); err != nil {
		return calm, stormy, 0, err
	}

	enough = make(chan struct{})
	began := time.Now()
	others, err := load.New(s.Addr, hs[stormConnected:], n, false)
	if err != nil {
		return calm, stormy, 0, err
	}
	defer others.Close()
	failed := make(chan error, 1)
	go func() {
		defer close(enough)
		err := others.WaitLive()
		took = time.Since(began)
		failed <- err
	}()
	stormy, err = load.Paced(connected, p, stormRate, enough)
	if stormErr := <-failed; stormErr != nil {
		err = stormErr
	}
	return calm, stormy, took, err
}
