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

// newLogger returns a logger that writes to out. Lines that out drops are announced
// by a line in the same format.
func newLogger(out *Output, cfg *config.Config, level *slog.LevelVar) *slog.Logger {
	setLevel(level, cfg.LogLevel)
	out.setNotice(func(lost int) []byte {
		var b bytes.Buffer
		slog.New(logHandler(&b, cfg.LogFormat, slog.LevelWarn)).Warn("log lines dropped", "lines", lost)
		return b.Bytes()
	})
	return slog.New(logHandler(out, cfg.LogFormat, level))
}

func logHandler(w io.Writer, format string, level slog.Leveler) slog.Handler {
	o := &slog.HandlerOptions{Level: level}
	if format == "json" {
		return slog.NewJSONHandler(w, o)
	}
	return slog.NewTextHandler(w, o)
}

// setLevel sets v to a level that has been validated.
func setLevel(v *slog.LevelVar, level string) {
	var l slog.Level
	if l.UnmarshalText([]byte(level)) == nil {
		v.Set(l)
	}
}

const (
	// logEvery is how often one kind of trouble is logged.
	logEvery = time.Second
	// warnEvery is how often one thing is logged that lasts.
	warnEvery = 10 * time.Second
	// eventEvery is the time between two log lines for an event that strangers can cause.
	eventEvery = time.Minute
)

// throttle logs what can happen for every message, or goes on for long: of each
// kind one line in a while at most, which says how many it stands for.
type throttle struct {
	log *slog.Logger // immutable

	mu    sync.Mutex
	kinds map[string]*kind // guarded by mu
}

type kind struct {
	next    time.Time
	skipped int
}

func newThrottle(log *slog.Logger) *throttle {
	return &throttle{log: log, kinds: make(map[string]*kind)}
}

// error logs an event. There must be few different events.
func (t *throttle) error(event string, err error) {
	t.line(event, slog.LevelError, event, slog.Any("error", err), logEvery)
}

// warn logs an event that lasts. There must be few different events.
func (t *throttle) warn(event string, err error) {
	t.line(event, slog.LevelWarn, event, slog.Any("error", err), warnEvery)
}

// limit logs that the setting called name has been reached, which any stranger can cause.
func (t *throttle) limit(name string) {
	t.line(name, slog.LevelWarn, "connection limit reached", slog.String("limit", name), eventEvery)
}

// line logs an event unless one of the same kind was logged within the time every.
func (t *throttle) line(of string, level slog.Level, event string, attr slog.Attr, every time.Duration) {
	now := time.Now()
	t.mu.Lock()
	k := t.kinds[of]
	if k == nil {
		k = &kind{}
		t.kinds[of] = k
	}
	if now.Before(k.next) {
		k.skipped++
		t.mu.Unlock()
		return
	}
	skipped := k.skipped
	*k = kind{next: now.Add(every)}
	t.mu.Unlock()
	t.log.LogAttrs(context.Background(), level, event, attr, slog.Int("unlogged_before", skipped))
}
