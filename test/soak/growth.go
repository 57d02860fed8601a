//go:build linux

package main

import (
	"slices"

	"pubsub/internal/testkit/history"
)

// quantity is something that must not grow.
type quantity struct {
	name string
	of   func(*sample) float64
	// unit divides values for a report.
	unit float64
	// factor and floor are how much larger a later value may be, because garbage, connections that
	// are being opened or closed, and the store's table vary at random.
	factor, floor float64
}

// quantities returns the quantities to watch. With the portable holder the number of goroutines
// depends on that of connections.
func quantities(holder string) []quantity {
	goroutines := func(s *sample) float64 { return s.goroutines }
	if holder == "portable" {
		goroutines = func(s *sample) float64 { return s.goroutines - s.connections }
	}
	return []quantity{
		{"resident, MiB", func(s *sample) float64 { return s.resident }, 1 << 20, 1.05, 4 << 20},
		{"heap, MiB", func(s *sample) float64 { return s.heap }, 1 << 20, 1.05, 2 << 20},
		{"goroutines", goroutines, 1, 1.05, 30},
		{"descriptors beside the subscribers'", func(s *sample) float64 { return s.descriptors - s.connections }, 1, 1.05, 30},
	}
}

// thirds returns the medians of the middle and the last third.
func (q *quantity) thirds(samples []sample) (middle, last float64) {
	median := func(ss []sample) float64 {
		var vs []float64
		for i := range ss {
			vs = append(vs, q.of(&ss[i]))
		}
		slices.Sort(vs)
		return vs[len(vs)/2]
	}
	n := len(samples)
	return median(samples[n/3 : n*2/3]), median(samples[n*2/3:])
}

// grows reports whether after is larger than it may be after before.
func (q *quantity) grows(before, after float64) bool {
	return after > max(before*q.factor, before+q.floor)
}

// checkGrowth compares the last third of the samples with the middle third. There must be at least
// three samples.
func checkGrowth(samples []sample, holder string, v *history.Violations) {
	for _, q := range quantities(holder) {
		if middle, last := q.thirds(samples); q.grows(middle, last) {
			v.Add(history.Growth, "%s: %.1f in the middle third, %.1f in the last", q.name, middle/q.unit, last/q.unit)
		}
	}
}

// checkRest compares the process after all subscribers have left with the process before they came.
// It does not compare memory, because the runtime returns garbage to the system only with time.
func checkRest(before, after *sample, v *history.Violations) {
	for _, gauge := range []string{"pubsub_connections", "pubsub_subscriptions", "pubsub_backlog_bytes"} {
		if left := after.m.Sum(gauge); left != 0 {
			v.Add(history.Growth, "%s is %v after all subscribers have left", gauge, left)
		}
	}
	// The store opens files and compacts at any time.
	const spare = 10
	if after.goroutines > before.goroutines+spare {
		v.Add(history.Growth, "%.0f goroutines after all subscribers have left, and %.0f before they came", after.goroutines, before.goroutines)
	}
	if after.descriptors > before.descriptors+spare {
		v.Add(history.Growth, "%.0f descriptors after all subscribers have left, and %.0f before they came", after.descriptors, before.descriptors)
	}
}
