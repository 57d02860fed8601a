package main

import (
	"bytes"
	"testing"
	"time"
)

// TestGauge checks the bar on a terminal, which is redrawn and removed at the end, and the
// lines elsewhere.
func TestGauge(t *testing.T) {
	for _, tt := range []struct {
		terminal bool
		want     string
	}{
		{true, "\r\x1b[Kimporting [                              ]   0 %, 1 messages" +
			"\r\x1b[Kimporting [===============               ]  50 %, 25 messages" +
			"\r\x1b[Kimporting [==============================] 100 %, 50 messages" +
			"\r\x1b[Kimporting: 60 messages" +
			"\r\x1b[K"},
		{false, "pubsub: importing:  50 %, 25 messages\npubsub: importing: 60 messages\n"},
	} {
		var b bytes.Buffer
		now := time.Now()
		g := newGauge(&b, "importing")
		if g.terminal {
			t.Error("newGauge treats a buffer as a terminal")
		}
		g.terminal, g.last, g.now = tt.terminal, now, func() time.Time { return now }
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
		if b.String() != tt.want {
			t.Errorf("terminal %t: %q, want %q", tt.terminal, b.String(), tt.want)
		}
	}
}
