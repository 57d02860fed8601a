//go:build linux

package main

import (
	"fmt"

	"pubsub/bench/internal/report"
)

// silence measures the CPU time of subscribers that receive only keep-alives.
func (o *options) silence(ts []named, _ string) error {
	var rows [][]string
	for _, t := range own(ts) {
		report.Progress("idle: %s", t.transport)
		share, err := o.silent(t)
		if err != nil {
			return fmt.Errorf("%s: %w", t.transport, err)
		}
		rows = append(rows, []string{t.transport, fmt.Sprintf("%.2f %%", share*100)})
	}
	report.Table(fmt.Sprintf("%d subscribers that receive only keep-alives, for %v", o.subscribers, o.idle), []string{"CPU of a core"}, rows)
	return nil
}

func (o *options) silent(t *ours) (share float64, err error) {
	s, err := t.start("")
	if err != nil {
		return 0, err
	}
	defer s.Stop()
	subs, _, err := s.connect(o.subscribers, oneTopic, false)
	if err != nil {
		return 0, err
	}
	defer subs.Close()
	if share, err = s.idle(o.idle); err != nil {
		return 0, err
	}
	return share, subs.Failed()
}
