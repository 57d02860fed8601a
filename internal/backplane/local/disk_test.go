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
	"syscall"
	"testing"
	"time"

	"pubsub"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// TestSmallDisk fills a real disk of 16 MiB. Messages are refused while keys can still be
// written and messages read, the process survives, and with free space again everything
// works.
func TestSmallDisk(t *testing.T) {
	dir := t.TempDir()
	if runtime.GOOS != "linux" || os.Geteuid() != 0 || !mount(t, dir, "-t", "tmpfs", "-o", "size=16m", "tmpfs") {
		t.Log("this user cannot mount a small disk: only TestDiskReserve runs")
		return
	}
	var failures atomic.Int64
	o := Options{Dir: dir, Events: Events{
		Error: func(event string, err error) { failures.Add(1); t.Log(event, err) },
		Fatal: func(err error) { t.Errorf("the process exits: %v", err) },
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
	if err := errors.Join(ballast.Close(), os.Remove(ballast.Name()), b.Close()); err != nil {
		t.Fatal(err)
	}
	// More room than compactions can use up soon.
	if !remount(t, dir, "-t", "tmpfs", "-o", "remount,size=48m", "tmpfs") {
		t.FailNow()
	}
	b = open(t, o)
	defer b.Close()
	h.check(t, b)
	t.Logf("%d messages fitted; errors reported: %d", len(h.values), failures.Load())
}

// exhaust fills the disk with ballast down to half of the reserve, until the engine cannot
// free any more space.
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

// TestDiskReserve is like TestSmallDisk, but with a file system that reports a given free
// space.
func TestDiskReserve(t *testing.T) {
	fs := vfs.NewMem()
	var b *Backplane
	// A store remembers the free space for a while, so each change of it needs a new store.
	reopen := func(avail uint64) {
		t.Helper()
		if b != nil {
			// The contents of a log would need room when the store is opened.
			if err := errors.Join(b.db.Flush(), b.Close()); err != nil {
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
		t.Errorf("Put of a message larger than the free space: %v, want %v", err, ErrDiskFull)
	}
	for range 100 { // each Put reduces the remembered free space
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
		t.Errorf("Put with free space again: %v", err)
	}
	if err := b.Health(context.Background()); !errors.Is(err, pubsub.ErrUnavailable) {
		t.Errorf("Health without Run: %v, want %v", err, pubsub.ErrUnavailable)
	}
}

// TestStartOnFullDisk kills a process of publishers, fills its disk to a varying extent,
// and opens the store. Open succeeds, or returns quickly with an error that names the
// directory. With free space again nothing is lost.
func TestStartOnFullDisk(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if runtime.GOOS != "linux" || os.Geteuid() != 0 || !mount(t, dir, "-t", "tmpfs", "-o", "size=48m", "tmpfs") {
		t.Skip("this user cannot mount a small disk")
	}
	o := Options{Dir: filepath.Join(dir, "data")}
	h := newHistory()
	outcomes := map[bool]int{}
	for _, left := range []int64{0, 8 << 10, 64 << 10, 200 << 10, 400 << 10, 600 << 10, 900 << 10, 2 << 20} {
		for _, line := range publishAndKill(t, o.Dir, 8_000) {
			h.sawLine(t, line)
		}
		ballast := fillUp(t, filepath.Join(dir, "ballast"), left)
		began := time.Now()
		b, err := Open(o)
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("with %d bytes left Open took %v", left, took)
		}
		outcomes[err == nil]++
		switch {
		case err == nil:
			if _, err := b.Put(t.Context(), message("t", strings.Repeat("x", 1000)))(); !errors.Is(err, ErrDiskFull) {
				t.Errorf("with %d bytes left a Put: %v", left, err)
			}
			if err := b.Close(); err != nil {
				t.Error(err)
			}
		case !errors.Is(err, ErrDiskFull) || !strings.Contains(err.Error(), o.Dir):
			t.Errorf("with %d bytes left: %v", left, err)
		default:
			t.Log(err)
		}
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
		b = open(t, o)
		h.check(t, b)
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}
	if outcomes[true] == 0 || outcomes[false] == 0 {
		t.Errorf("Open succeeded %d times and failed %d times, want both", outcomes[true], outcomes[false])
	}
}

// fillUp creates a file that leaves only left bytes free on its disk.
func fillUp(t *testing.T, name string, left int64) string {
	t.Helper()
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	block := make([]byte, 4096)
	var size int64
	for err == nil {
		var n int
		n, err = f.Write(block)
		size += int64(n)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	if err := f.Truncate(size - left); err != nil {
		t.Fatal(err)
	}
	return name
}
