//go:build linux

package main

import (
	"slices"
	"time"
)

func median(rs []result, f func(result) float64) float64 {
	var vs []float64
	for _, r := range rs {
		vs = append(vs, f(r))
	}
	return medianOf(vs)
}

// medianOf returns the middle of vs; 0 for none.
func medianOf(vs []float64) float64 {
	if len(vs) == 0 {
		return 0
	}
	vs = slices.Sorted(slices.Values(vs))
	if n := len(vs); n%2 == 0 {
		return (vs[n/2-1] + vs[n/2]) / 2
	}
	return vs[len(vs)/2]
}

// quantile returns the value below which the share q of ds lies; 0 for none.
func quantile(ds []time.Duration, q float64) time.Duration {
	if len(ds) == 0 {
		return 0
	}
	slices.Sort(ds)
	return ds[min(len(ds)-1, int(q*float64(len(ds))))]
}

func milliseconds(d time.Duration) float64 { return d.Seconds() * 1e3 }

func lost(rs []result) (n int) {
	for _, r := range rs {
		n += r.lost
	}
	return n
}
