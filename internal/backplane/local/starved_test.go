package local

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"pubsub"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// starvedFS is a file system on which the matching operations fail for a time.
type starvedFS struct {
	failing  atomic.Pointer[error] // nil while operations succeed
	match    func(errorfs.Op) bool
	attempts atomic.Int64 // failed operations
}

func (f *starvedFS) wrap(fs vfs.FS) vfs.FS {
	return errorfs.Wrap(fs, errorfs.InjectorFunc(func(op errorfs.Op) error {
		err := f.failing.Load()
		if err == nil || !f.match(op) {
			return nil
		}
		f.attempts.Add(1)
		return *err
	}))
}

// TestStarved makes operations on files of each kind fail for lack of room or descriptors.
// Every Put returns, the engine does not retry in a busy loop, and the process survives.
// Afterwards everything works, and nothing is lost.
func TestStarved(t *testing.T) {
	isLog := func(op errorfs.Op) bool { return filepath.Ext(op.Path) == ".log" }
	isTable := func(op errorfs.Op) bool { return filepath.Ext(op.Path) == ".sst" }
	isManifest := func(op errorfs.Op) bool {
		return strings.Contains(op.Path, "MANIFEST") || strings.Contains(op.Path, "marker")
	}
	creates := func(op errorfs.Op) bool { return op.Kind == errorfs.OpCreate || op.Kind == errorfs.OpReuseForWrite }
	writes := func(op errorfs.Op) bool { return op.Kind == errorfs.OpFileWrite || creates(op) }
	for name, c := range map[string]struct {
		err  error
		file func(errorfs.Op) bool
		op   func(errorfs.Op) bool
	}{
		"no descriptor for a log":        {syscall.EMFILE, isLog, creates},
		"no descriptor for a table":      {syscall.ENFILE, isTable, creates},
		"no descriptor for the MANIFEST": {syscall.EMFILE, isManifest, creates},
		"no room for a log":              {syscall.ENOSPC, isLog, writes},
		"no room for a table":            {syscall.EDQUOT, isTable, writes},
		"no room for the MANIFEST":       {syscall.ENOSPC, isManifest, writes},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				fs := &starvedFS{match: func(op errorfs.Op) bool { return c.file(op) && c.op(op) }}
				mem := vfs.NewMem()
				mem.TestingSetDiskUsage(vfs.DiskUsage{AvailBytes: 1 << 40, TotalBytes: 16 << 20}) // for small tables
				o := Options{Dir: "/data", FS: fs.wrap(mem)}
				b := open(t, o)
				h := newHistory()
				fs.failing.Store(&c.err)
				began := time.Now()
				refused := 0
				for i := range 200 {
					topic := pubsub.Topic(fmt.Sprint("t/", i))
					data := strings.Repeat("x", 32<<10)
					v, err := b.Put(t.Context(), message(topic, data))()
					switch {
					case err == nil:
						h.saw(t, topic, v, data)
					case errors.Is(err, pubsub.ErrUnavailable):
						refused++
					default:
						t.Fatal(err)
					}
				}
				if refused == 0 && name != "no descriptor for the MANIFEST" { // a flush seldom opens one
					t.Error("no message was refused")
				}
				if took := time.Since(began); took > stallAfter+time.Second {
					t.Errorf("200 messages took %v", took)
				}
				time.Sleep(time.Minute)
				if perSecond := float64(fs.attempts.Load()) / time.Since(began).Seconds(); perSecond > 12 {
					t.Errorf("the store made %.0f attempts a second", perSecond)
				}
				fs.failing.Store(nil)
				time.Sleep(2 * retryAfter)
				if err := b.Health(t.Context()); !errors.Is(err, pubsub.ErrUnavailable) || errors.Is(err, errStalled) { // Run is not running
					t.Errorf("Health after the failures: %v", err)
				}
				h.check(t, b)
				if err := b.Close(); err != nil {
					t.Fatal(err)
				}
				b = open(t, o)
				h.check(t, b)
				if err := b.Close(); err != nil {
					t.Fatal(err)
				}
			})
		})
	}
}

// TestFilledByOthers fills the disk to the last byte. The store writes nothing, the
// process survives, and with free space again everything works.
func TestFilledByOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fs := &starvedFS{match: func(op errorfs.Op) bool { return op.Kind == errorfs.OpFileWrite || op.Kind == errorfs.OpCreate }}
		mem := vfs.NewMem()
		room := func(avail uint64) {
			mem.TestingSetDiskUsage(vfs.DiskUsage{AvailBytes: avail, TotalBytes: 16 << 20})
			fs.failing.Store(nil)
			if avail == 0 {
				full := error(syscall.ENOSPC)
				fs.failing.Store(&full)
			}
			time.Sleep(checkEvery)
		}
		room(8 << 20)
		b := open(t, Options{Dir: "/data", FS: fs.wrap(mem)})
		for i := range 1000 {
			m := message(pubsub.Topic(fmt.Sprint("t/", i)), strings.Repeat("x", 1000))
			m.HasTTL, m.TTL = true, 60
			if _, err := b.Put(t.Context(), m)(); err != nil {
				t.Fatal(err)
			}
		}
		if err := b.PutKey(t.Context(), pubsub.Key{ID: "k", Value: "v"}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // for a pending flush, which would be repeated
		room(0)
		time.Sleep(2 * time.Minute) // expired messages are removed meanwhile
		for call, err := range map[string]error{
			"Put":       func() error { _, err := b.Put(t.Context(), message("t", "x"))(); return err }(),
			"a clear":   func() error { _, err := b.Put(t.Context(), message("t/1", ""))(); return err }(),
			"PutKey":    b.PutKey(t.Context(), pubsub.Key{ID: "new", Value: "v"}),
			"DeleteKey": b.DeleteKey(t.Context(), "k"),
			"expire":    b.expire(t.Context(), time.Now()),
			"Health":    b.Health(t.Context()),
		} {
			if !errors.Is(err, ErrDiskFull) || !strings.Contains(err.Error(), "/data") {
				t.Errorf("%s on a full disk: %v", call, err)
			}
		}
		if n := fs.attempts.Load(); n != 0 {
			t.Errorf("the store tried %d writes", n)
		}
		room(8 << 20)
		if err := b.expire(t.Context(), time.Now()); err != nil {
			t.Error(err)
		}
		if s := b.Stats(); s.Expired != 1000 || s.Keys != 1 {
			t.Errorf("Stats = %+v, want 1000 messages expired and one key", s)
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
}
