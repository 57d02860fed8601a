//go:build linux

package report

import (
	"slices"
	"time"
)

// Median returns the median of vs, or 0 if vs is empty.
func Median(vs []float64) float64 {
	if len(vs) == 0 {
		return 0
	}
	vs = slices.Sorted(slices.Values(vs))
	if n := len(vs); n%2 == 0 {
		return (vs[n/2-1] + vs[n/2]) / 2
	}
	return vs[len(vs)/2]
}

// Quantile returns the q-quantile of ds, which it sorts, or 0 if ds is empty.
func Quantile(ds []time.Duration, q float64) time.Duration {
	if len(ds) == 0 {
		return 0
	}
	slices.Sort(ds)
	return ds[min(len(ds)-1, int(q*float64(len(ds))))]
}

// Milliseconds returns d in milliseconds.
func Milliseconds(d time.Duration) float64 { return d.Seconds() * 1e3 }
