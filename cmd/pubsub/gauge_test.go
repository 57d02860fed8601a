package main

import (
	"bytes"
	"testing"
	"time"
)

// TestGauge checks the bar on a terminal, which is redrawn and removed at the end, and the
// lines elsewhere.
func TestGauge(t *testing.T) {
	const bars = "\r\x1b[Kimporting [                              ]   0 %, 1 messages" +
		"\r\x1b[Kimporting [===============               ]  50 %, 25 messages" +
		"\r\x1b[Kimporting [==============================] 100 %, 50 messages" +
		"\r\x1b[Kimporting: 60 messages" +
		"\r\x1b[K"
	if got := gaugeOutput(true); got != bars {
		t.Errorf("on a terminal: %q, want %q", got, bars)
	}
	const lines = "pubsub: importing:  50 %, 25 messages\npubsub: importing: 60 messages\n"
	if got := gaugeOutput(false); got != lines {
		t.Errorf("elsewhere: %q, want %q", got, lines)
	}
	if newGauge(new(bytes.Buffer), "importing").terminal {
		t.Error("newGauge treats a buffer as a terminal")
	}
}

// gaugeOutput returns the output of a gauge during an import.
func gaugeOutput(terminal bool) string {
	var b bytes.Buffer
	now := time.Now()
	g := newGauge(&b, "importing")
	g.terminal, g.last, g.now = terminal, now, func() time.Time { return now }
	g.show(0, 0, 5000) // too early
	for _, s := range []struct {
		after       time.Duration
		messages    int
		done, total int64
	}{
		{gaugeRedraw, 1, 1, 5000},
		{gaugeRedraw - 1, 2, 2, 5000},
		{gaugeLine - gaugeRedraw, 25, 2500, 5000},
		{gaugeRedraw, 50, 5100, 5000}, // more than were counted at the beginning
		{gaugeLine, 60, 6000, 0},
	} {
		now = now.Add(s.after)
		g.show(s.messages, s.done, s.total)
	}
	g.clear()
	g.clear()
	return b.String()
}
