package app

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"sync"
	"time"

	"pubsub/internal/config"
)

// Logger is the log of a node. A reload of the settings can change its level.
type Logger struct {
	*slog.Logger
	level *slog.LevelVar
}

// NewLogger returns a log to out, in the format and with the level of cfg. Lines that out
// drops are announced by a line in the same format.
func NewLogger(out *Output, cfg *config.Config) *Logger {
	level := new(slog.LevelVar)
	setLevel(level, cfg.LogLevel)
	out.setNotice(func(lost int) []byte {
		var b bytes.Buffer
		slog.New(logHandler(&b, cfg.LogFormat, slog.LevelWarn)).Warn("log lines dropped", "lines", lost)
		return b.Bytes()
	})
	return &Logger{slog.New(logHandler(out, cfg.LogFormat, level)), level}
}

func logHandler(w io.Writer, format string, level slog.Leveler) slog.Handler {
	o := &slog.HandlerOptions{Level: level, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Value.Kind() == slog.KindDuration {
			a.Value = slog.StringValue(a.Value.Duration().String()) // JSON would have nanoseconds
		}
		return a
	}}
	if format == "json" {
		return slog.NewJSONHandler(w, o)
	}
	return slog.NewTextHandler(w, o)
}

// setLevel sets v to level, which must be valid.
func setLevel(v *slog.LevelVar, level string) {
	var l slog.Level
	if l.UnmarshalText([]byte(level)) == nil {
		v.Set(l)
	}
}

const (
	// errorInterval is the least time between two log lines for the same error.
	errorInterval = time.Second
	// stateInterval is the least time between two log lines for a state that lasts.
	stateInterval = 10 * time.Second
	// clientInterval is the least time between two log lines for an event that any client
	// can cause.
	clientInterval = time.Minute
)

// throttle limits how often events are logged that can occur for every message, or that
// last. A line has the number of events that were suppressed since the line before.
type throttle struct {
	log *slog.Logger // immutable

	mu    sync.Mutex
	kinds map[string]*kind // guarded by mu
}

type kind struct {
	next       time.Time // of a line
	suppressed int       // events since the last line
}

func newThrottle(log *slog.Logger) *throttle {
	return &throttle{log: log, kinds: make(map[string]*kind)}
}

// error logs an error. There must be few different events.
func (t *throttle) error(event string, err error) {
	t.line(event, slog.LevelError, event, slog.Any("error", err), errorInterval)
}

// warn logs a state that lasts. There must be few different events.
func (t *throttle) warn(event string, err error) {
	t.line(event, slog.LevelWarn, event, slog.Any("error", err), stateInterval)
}

// limit logs that the limit of the named setting is reached, which strangers can cause.
func (t *throttle) limit(name string) {
	t.line(name, slog.LevelWarn, "connection limit reached", slog.String("limit", name), clientInterval)
}

// line logs an event, unless an event of the same kind was logged within the interval.
func (t *throttle) line(of string, level slog.Level, event string, attr slog.Attr, interval time.Duration) {
	now := time.Now()
	t.mu.Lock()
	k := t.kinds[of]
	if k == nil {
		k = &kind{}
		t.kinds[of] = k
	}
	if now.Before(k.next) {
		k.suppressed++
		t.mu.Unlock()
		return
	}
	suppressed := k.suppressed
	*k = kind{next: now.Add(interval)}
	t.mu.Unlock()
	attrs := []slog.Attr{attr}
	if suppressed > 0 {
		attrs = append(attrs, slog.Int("suppressed", suppressed))
	}
	t.log.LogAttrs(context.Background(), level, event, attrs...)
}
