package main

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// gauge shows how far something is: on a terminal as a bar that is drawn again and
// again, elsewhere as a line now and then.
type gauge struct {
	w        io.Writer
	what     string // "importing"
	terminal bool
	now      func() time.Time
	last     time.Time // when it was shown
	drawn    bool      // the bar stands on the last line
}

const (
	gaugeRedraw = 100 * time.Millisecond // between two bars
	gaugeLine   = 10 * time.Second       // between two lines
	gaugeWidth  = 30
)

func newGauge(w io.Writer, what string) *gauge {
	g := &gauge{w: w, what: what, now: time.Now, last: time.Now()}
	if s, ok := w.(*screen); ok {
		g.w, g.terminal = s.raw, true
	}
	return g
}

// show shows, if that is due, how many messages are done, and that done of total
// is; with a total of 0 that is unknown.
func (g *gauge) show(messages int, done, total int64) {
	pause := gaugeLine
	if g.terminal {
		pause = gaugeRedraw
	}
	now := g.now()
	if now.Sub(g.last) < pause {
		return
	}
	g.last = now
	line := fmt.Sprintf("%s: %d messages", g.what, messages)
	if total > 0 {
		part := min(float64(done)/float64(total), 1)
		line = fmt.Sprintf("%s: %3.0f %%, %d messages", g.what, 100*part, messages)
		if g.terminal {
			full := int(part * gaugeWidth)
			line = fmt.Sprintf("%s [%s%s] %3.0f %%, %d messages", g.what, strings.Repeat("=", full), strings.Repeat(" ", gaugeWidth-full), 100*part, messages)
		}
	}
	if !g.terminal {
		fmt.Fprintln(g.w, "pubsub:", line)
		return
	}
	fmt.Fprint(g.w, "\r\x1b[K", line)
	g.drawn = true
}

// clear takes the bar away.
func (g *gauge) clear() {
	if g.drawn {
		fmt.Fprint(g.w, "\r\x1b[K")
		g.drawn = false
	}
}
