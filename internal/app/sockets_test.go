package app

import (
	"bytes"
	"log/slog"
	"math"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"pubsub/internal/config"
	"pubsub/internal/rlimit"
)

// TestMaxSocketsByDefault checks that clients leave a reserve of 512 descriptors, or of half
// the limit if that is less.
func TestMaxSocketsByDefault(t *testing.T) {
	for limit, want := range map[uint64]int{
		64: 32, 256: 128, 512: 256, 1000: 500, 1024: 512, 1025: 513, 20_000: 19_488, 1 << 20: 1<<20 - 512, math.MaxUint64: math.MaxInt32,
	} {
		if got := socketsWithin(limit); got != want {
			t.Errorf("limit %d: got %d sockets, want %d", limit, got, want)
		}
	}
	limit, ok := rlimit.Descriptors()
	if got := maxSockets(&config.Config{}); ok && (got < 1 || uint64(got) >= limit) || !ok && got != 0 {
		t.Errorf("limit %d, %t: got %d sockets", limit, ok, got)
	}
	if got := maxSockets(&config.Config{MaxSockets: 7}); got != 7 {
		t.Errorf("max-sockets 7: got %d", got)
	}
}

// TestMaxSocketsIsTooHigh checks the warning if max-sockets leaves no reserve.
func TestMaxSocketsIsTooHigh(t *testing.T) {
	limit, ok := rlimit.Descriptors()
	if !ok || limit > math.MaxInt32 {
		t.Skip("this system does not limit descriptors")
	}
	var log bytes.Buffer
	n := &node{log: slog.New(slog.NewTextHandler(&log, nil))}
	n.checkDescriptors(&config.Config{MaxSockets: socketsWithin(limit)})
	if log.Len() > 0 {
		t.Errorf("within the limit: %s", &log)
	}
	n.checkDescriptors(&config.Config{MaxSockets: int(limit)})
	if !strings.Contains(log.String(), "level=WARN") {
		t.Errorf("at the limit: %q", &log)
	}
}

// TestConnectionLimitsAreLoggedOnceAMinute checks that an event that any client can cause is
// logged once a minute for each limit, with the number of suppressed lines. An error of accept
// is logged as an error.
func TestConnectionLimitsAreLoggedOnceAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		n := &node{throttle: newThrottle(slog.New(slog.NewTextHandler(&log, nil))), metrics: newMetrics("test")}
		e := n.socketEvents()
		for range 3 * 60 {
			e.Limited("max-sockets")
			e.Limited("max-connections-per-ip")
			e.AcceptFailed(syscall.EMFILE)
			time.Sleep(time.Second)
		}
		for _, want := range []string{
			`level=WARN msg="connection limit reached" limit=max-sockets`,
			`level=WARN msg="connection limit reached" limit=max-connections-per-ip`,
			`level=ERROR msg="accept failed" error="too many open files"`,
		} {
			if got := strings.Count(log.String(), want); got != 3 || !strings.Contains(log.String(), want+" suppressed=59\n") {
				t.Errorf("%d times %s:\n%s", got, want, &log)
			}
		}
	})
}
