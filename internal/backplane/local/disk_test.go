package local

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pubsub"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// TestSmallDisk fills a real disk of 16 MiB: messages are refused while keys can
// still be written and messages read, the process lives, and when room is made
// all goes on.
func TestSmallDisk(t *testing.T) {
	dir := t.TempDir()
	if runtime.GOOS != "linux" || os.Geteuid() != 0 || !mount(t, dir, "-t", "tmpfs", "-o", "size=16m", "tmpfs") {
		t.Log("this user cannot mount a small disk: TestDiskReserve has to do")
		return
	}
	var troubles atomic.Int64
	o := Options{Dir: dir, Events: Events{
		Error: func(err error) { troubles.Add(1); t.Log(err) },
		Fatal: func(err error) { t.Errorf("the process ends: %v", err) },
	}}
	b := open(t, o)
	h := newHistory()
	fillDisk(t, b, h)
	ballast, err := os.Create(filepath.Join(dir, "ballast"))
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	for range 2 { // now, and after a restart on the full disk
		exhaust(t, b, ballast)
		if _, err := b.Put(ctx, message("t", "x"))(); !errors.Is(err, ErrDiskFull) {
			t.Errorf("Put on a full disk: %v, want %v", err, ErrDiskFull)
		}
		id := fmt.Sprint("emergency ", len(h.keys))
		if err := b.PutKey(ctx, pubsub.Key{ID: id, Value: "v"}); err != nil {
			t.Errorf("PutKey on a full disk: %v", err)
		}
		h.keys[id] = true
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		b = open(t, o)
	}
	if err := errors.Join(ballast.Close(), os.Remove(ballast.Name())); err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b = open(t, o)
	defer b.Close()
	awaitRoom(t, b)
	h.check(t, b)
	t.Logf("%d messages fitted; errors reported: %d", len(h.values), troubles.Load())
}

// exhaust lets somebody else, the ballast, take what is left above half of the
// reserve, until the engine has done what it can to make room.
func exhaust(t *testing.T, b *Backplane, ballast *os.File) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for !errors.Is(b.Health(ctx), ErrDiskFull) {
		if err := errors.Join(ctx.Err(), b.db.Flush()); err != nil {
			t.Fatal(err)
		}
		for s := b.Stats(); s.DiskFree > s.DiskReserve/2; s = b.Stats() {
			if _, err := ballast.Write(make([]byte, 64<<10)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// awaitRoom lets the engine compact until messages are taken again.
func awaitRoom(t *testing.T, b *Backplane) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for b.Health(ctx) != nil && !errors.Is(b.Health(ctx), pubsub.ErrUnavailable) {
		if err := errors.Join(ctx.Err(), b.db.Flush()); err != nil {
			t.Fatal(err)
		}
	}
}

// fillDisk puts messages that do not compress until they are refused.
func fillDisk(t *testing.T, b *Backplane, h *history) {
	t.Helper()
	var refused atomic.Int64
	var wg sync.WaitGroup
	for w := range 8 {
		rng := rand.NewChaCha8([32]byte{byte(w)})
		wg.Go(func() {
			data := make([]byte, 4096)
			for i := 0; refused.Load() < 1000; i++ {
				rng.Read(data)
				m := message(pubsub.Topic(fmt.Sprint(w, "/", i)), string(data))
				v, err := b.Put(t.Context(), m)()
				switch {
				case errors.Is(err, ErrDiskFull):
					refused.Add(1)
				case err != nil:
					t.Error(err)
					return
				default:
					h.saw(t, m.Topic, v, string(data))
				}
			}
		})
	}
	wg.Wait()
}

// TestDiskReserve goes through the same with a file system that says what is
// free.
func TestDiskReserve(t *testing.T) {
	fs := vfs.NewMem()
	var b *Backplane
	// An answer counts for a while: each one here gets a store of its own.
	reopen := func(avail uint64) {
		t.Helper()
		if b != nil {
			if err := b.Close(); err != nil {
				t.Fatal(err)
			}
		}
		fs.TestingSetDiskUsage(vfs.DiskUsage{AvailBytes: avail, TotalBytes: 1 << 30})
		b = open(t, Options{Dir: "/data", FS: fs, DiskReserve: 1 << 20})
	}
	ctx := t.Context()
	put := func(size int) error {
		_, err := b.Put(ctx, message("t", strings.Repeat("x", size)))()
		return err
	}
	reopen(2 << 20)
	if s := b.Stats(); s.DiskFree != 2<<20 || s.DiskReserve != 1<<20 {
		t.Errorf("Stats = %+v, want 2 MiB free and a reserve of 1 MiB", s)
	}
	if err := put(100_000); err != nil {
		t.Errorf("Put of 100 kB with 1 MiB above the reserve: %v", err)
	}
	if err := put(600_000); !errors.Is(err, ErrDiskFull) || !strings.Contains(err.Error(), "/data") {
		t.Errorf("Put of what costs more than is left: %v, want %v", err, ErrDiskFull)
	}
	for range 100 { // what was taken since the last answer counts
		if err := put(100_000); errors.Is(err, ErrDiskFull) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	reopen(1 << 20)
	if err := put(1); !errors.Is(err, ErrDiskFull) {
		t.Errorf("Put at the reserve: %v, want %v", err, ErrDiskFull)
	}
	if err := b.Health(ctx); !errors.Is(err, ErrDiskFull) {
		t.Errorf("Health at the reserve: %v, want %v", err, ErrDiskFull)
	}
	if _, ok, err := b.Last(ctx, "t", pubsub.Version{}); !ok || err != nil {
		t.Errorf("Last at the reserve: ok %v, %v", ok, err)
	}
	if err := b.PutKey(ctx, pubsub.Key{ID: "k", Value: "v"}); err != nil {
		t.Errorf("PutKey at the reserve: %v", err)
	}
	reopen(1 << 30)
	defer b.Close()
	if err := put(1); err != nil {
		t.Errorf("Put when there is room again: %v", err)
	}
	if err := b.Health(context.Background()); !errors.Is(err, pubsub.ErrUnavailable) {
		t.Errorf("Health without Run: %v, want %v", err, pubsub.ErrUnavailable)
	}
}
