//go:build linux

package main

import "slices"

// quantity is something that a process must not take ever more of.
type quantity struct {
	name string
	of   func(*sample) float64
	// unit is what values are divided by for people.
	unit float64
	// factor and floor are how much larger a later value may be: what garbage is
	// left, how many are just coming or going and how full the store's table is are
	// matters of chance.
	factor, floor float64
}

// quantities returns what is watched. With a goroutine for each connection those
// are as many as the subscribers that happen to be there.
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

// thirds returns the medians of the middle and of the last third.
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

// more reports whether after is more than before allows.
func (q *quantity) more(before, after float64) bool {
	return after > max(before*q.factor, before+q.floor)
}

// checkGrowth compares the last third of the samples, three at least, with the one
// before.
func checkGrowth(samples []sample, holder string, f *faults) {
	for _, q := range quantities(holder) {
		if middle, last := q.thirds(samples); q.more(middle, last) {
			f.add(faultGrowth, "%s: %.1f in the middle third, %.1f in the last", q.name, middle/q.unit, last/q.unit)
		}
	}
}

// checkRest compares the process after all have left with the one before any came.
// Memory is not compared: what thousands took at once is garbage, and the system
// gets it back in its own time.
func checkRest(before, after *sample, f *faults) {
	for _, gauge := range []string{"pubsub_connections", "pubsub_subscriptions", "pubsub_backlog_bytes"} {
		if v := after.m.Sum(gauge); v != 0 {
			f.add(faultGrowth, "%s is %v when all have left", gauge, v)
		}
	}
	// Some more, for the store opens files and compacts as it likes.
	const spare = 10
	if after.goroutines > before.goroutines+spare {
		f.add(faultGrowth, "%.0f goroutines when all have left, and %.0f before they came", after.goroutines, before.goroutines)
	}
	if after.descriptors > before.descriptors+spare {
		f.add(faultGrowth, "%.0f descriptors when all have left, and %.0f before they came", after.descriptors, before.descriptors)
	}
}
