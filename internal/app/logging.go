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

// error logs an event, of which there are few different ones.
func (t *throttle) error(event string, err error) { t.line(slog.LevelError, event, err, logEvery) }

// warn logs an event that lasts; there are few different ones.
func (t *throttle) warn(event string, err error) { t.line(slog.LevelWarn, event, err, warnEvery) }

func (t *throttle) line(level slog.Level, event string, err error, every time.Duration) {
	now := time.Now()
	t.mu.Lock()
	k := t.kinds[event]
	if k == nil {
		k = &kind{}
		t.kinds[event] = k
	}
	if now.Before(k.next) {
		k.skipped++
		t.mu.Unlock()
		return
	}
	skipped := k.skipped
	*k = kind{next: now.Add(every)}
	t.mu.Unlock()
	t.log.Log(context.Background(), level, event, "error", err, "unlogged_before", skipped)
}
