//go:build linux

package process

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"strconv"
	"strings"
)

// Metrics are the samples of a program, by name and labels in the format of
// Prometheus.
type Metrics map[string]float64

// ReadMetrics reads the metrics of the ops listener at a URL.
func ReadMetrics(ctx context.Context, ops string) (Metrics, error) {
	body, err := Get(ctx, ops+"/metrics")
	if err != nil {
		return nil, err
	}
	m := make(Metrics)
	for s := bufio.NewScanner(bytes.NewReader(body)); s.Scan(); {
		sample, text, ok := strings.Cut(s.Text(), " ")
		if !ok || sample == "#" {
			continue
		}
		if m[sample], err = strconv.ParseFloat(text, 64); err != nil {
			return nil, fmt.Errorf("metrics: %q: %w", s.Text(), err)
		}
	}
	return m, nil
}

// Sum returns the sum of the samples of a metric whose labels contain all of with.
func (m Metrics) Sum(name string, with ...string) (sum float64) {
samples:
	for sample, v := range m {
		if base, _, _ := strings.Cut(sample, "{"); base != name {
			continue
		}
		for _, w := range with {
			if !strings.Contains(sample, w) {
				continue samples
			}
		}
		sum += v
	}
	return sum
}
