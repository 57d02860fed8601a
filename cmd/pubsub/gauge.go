package main

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// gauge shows the progress of a command: on a terminal as a bar that is redrawn, otherwise
// as a line from time to time.
type gauge struct {
	w        io.Writer
	action   string // such as "importing"
	terminal bool
	now      func() time.Time
	last     time.Time // when it was shown last
	drawn    bool      // there is a bar on the current line of the terminal
}

const (
	gaugeRedraw = 100 * time.Millisecond // time between two bars
	gaugeLine   = 10 * time.Second       // time between two lines
	gaugeWidth  = 30                     // of the bar, in columns
)

func newGauge(w io.Writer, action string) *gauge {
	g := &gauge{w: w, action: action, now: time.Now, last: time.Now()}
	if s, ok := w.(*screen); ok {
		g.w, g.terminal = s.raw, true
	}
	return g
}

// show shows the number of messages so far and the fraction done of total, unless it was
// called a short time ago. A total of 0 is unknown.
func (g *gauge) show(messages int, done, total int64) {
	interval := gaugeLine
	if g.terminal {
		interval = gaugeRedraw
	}
	now := g.now()
	if now.Sub(g.last) < interval {
		return
	}
	g.last = now
	line := fmt.Sprintf("%s: %d messages", g.action, messages)
	if total > 0 {
		part := min(float64(done)/float64(total), 1)
		line = fmt.Sprintf("%s: %3.0f %%, %d messages", g.action, 100*part, messages)
		if g.terminal {
			full := int(part * gaugeWidth)
			line = fmt.Sprintf("%s [%s%s] %3.0f %%, %d messages", g.action, strings.Repeat("=", full), strings.Repeat(" ", gaugeWidth-full), 100*part, messages)
		}
	}
	if !g.terminal {
		fmt.Fprintln(g.w, "pubsub:", line)
		return
	}
	fmt.Fprint(g.w, "\r\x1b[K", line)
	g.drawn = true
}

// clear removes the bar.
func (g *gauge) clear() {
	if g.drawn {
		fmt.Fprint(g.w, "\r\x1b[K")
		g.drawn = false
	}
}
