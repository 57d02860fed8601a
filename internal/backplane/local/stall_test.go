package local

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"pubsub"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// frozenFS is a file system that can be frozen: writes then wait until it is thawed.
type frozenFS struct {
	mu     sync.Mutex
	thawed chan struct{} // guarded by mu; nil unless frozen
}

// wrap returns fs with writes that wait while f is frozen.
func (f *frozenFS) wrap(fs vfs.FS) vfs.FS {
	return errorfs.Wrap(fs, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
			f.mu.Lock()
			thawed := f.thawed
			f.mu.Unlock()
			if thawed != nil {
				<-thawed
			}
		}
		return nil
	}))
}

func (f *frozenFS) freeze() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.thawed = make(chan struct{})
}

func (f *frozenFS) thaw() {
	f.mu.Lock()
	defer f.mu.Unlock()
	close(f.thawed)
	f.thawed = nil
}

// TestFrozen freezes the disk of a store. After 5 s the store is not ready and refuses
// messages and keys, waiting callers get an error, and durable data can be read. When the
// disk recovers, everything works again, and the writes that were given up are durable:
// their messages are delivered and their keys reported.
func TestFrozen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var disk frozenFS
		b := open(t, Options{Dir: "/data", FS: disk.wrap(vfs.NewMem())})
		ctx, cancel := context.WithCancel(t.Context())
		delivered := make(chan pubsub.Message, 100)
		ready := make(chan struct{})
		var running sync.WaitGroup
		running.Go(func() {
			if err := b.Run(ctx, pubsub.Receiver{
				Ready:   func() { close(ready) },
				Deliver: func(p *pubsub.PreparedMessage) { delivered <- p.Message },
			}); err != nil {
				t.Error(err)
			}
		})
		<-ready
		changes := make(chan pubsub.KeyEvent, 100)
		running.Go(func() {
			if err := b.WatchKeys(ctx, func(c pubsub.KeyEvent) { changes <- c }); err != nil {
				t.Error(err)
			}
		})
		if c := <-changes; !c.Synced {
			t.Errorf("first change without keys: %+v, want Synced", c)
		}
		put := func(topic, data string) error {
			_, err := pubsub.Publish(ctx, b, message(pubsub.Topic(topic), data))()
			return err
		}
		if err := put("before", "x"); err != nil {
			t.Fatal(err)
		}
		<-delivered
		for round := range 2 {
			disk.freeze()
			began := time.Now()
			var waiting sync.WaitGroup
			for i := range 20 {
				waiting.Go(func() {
					if err := put(fmt.Sprint("given up/", i%10), fmt.Sprint(round)); !errors.Is(err, pubsub.ErrUnavailable) {
						t.Errorf("Put that waits: %v", err)
					}
				})
			}
			waiting.Go(func() {
				if err := b.PutKey(ctx, pubsub.Key{ID: fmt.Sprint("key ", round), Value: "v"}); !errors.Is(err, pubsub.ErrUnavailable) {
					t.Errorf("PutKey that waits: %v", err)
				}
			})
			synctest.Wait()
			waiting.Go(func() {
				if err := b.PutKey(ctx, pubsub.Key{ID: "queued", Value: "v"}); !errors.Is(err, pubsub.ErrUnavailable) {
					t.Errorf("PutKey that waits for another PutKey: %v", err)
				}
			})
			time.Sleep(4900 * time.Millisecond)
			if err := b.Health(ctx); err != nil {
				t.Errorf("Health after 4.9 s: %v", err)
			}
			waiting.Wait()
			if waited := time.Since(began); waited != stallAfter {
				t.Errorf("the writes waited for %v", waited)
			}
			// These calls must return at once.
			if err := b.Health(ctx); !errors.Is(err, pubsub.ErrUnavailable) {
				t.Errorf("Health: %v", err)
			}
			if err := put("new", "x"); !errors.Is(err, pubsub.ErrUnavailable) {
				t.Errorf("Put on a frozen disk: %v", err)
			}
			if err := b.PutKey(ctx, pubsub.Key{ID: "new", Value: "v"}); !errors.Is(err, pubsub.ErrUnavailable) {
				t.Errorf("PutKey on a frozen disk: %v", err)
			}
			if err := b.expire(ctx, time.Now().Add(48*time.Hour)); err != nil && !errors.Is(err, pubsub.ErrUnavailable) {
				t.Errorf("expire on a frozen disk: %v", err)
			}
			if _, ok, err := b.Last(ctx, "before", pubsub.Version{}); !ok || err != nil {
				t.Errorf("Last of a durable message: ok %v, %v", ok, err)
			}
			if _, _, err := b.Last(ctx, "given up/1", pubsub.Version{}); !errors.Is(err, pubsub.ErrUnavailable) {
				t.Errorf("Last of a message that is not durable: %v", err)
			}
			time.Sleep(time.Hour)
			if took := time.Since(began); took != stallAfter+time.Hour {
				t.Errorf("calls on a frozen disk took %v", took-time.Hour-stallAfter)
			}
			disk.thaw()
			synctest.Wait()
			if err := b.Health(ctx); err != nil {
				t.Errorf("Health after the disk recovered: %v", err)
			}
			newest := map[pubsub.Topic]pubsub.Message{}
			for len(delivered) > 0 {
				if m := <-delivered; m.Version.Newer(newest[m.Topic].Version) {
					newest[m.Topic] = m
				}
			}
			for i := range 10 {
				topic := pubsub.Topic(fmt.Sprint("given up/", i))
				last, ok, err := b.Last(ctx, topic, pubsub.Version{})
				if !ok || err != nil || string(last.Data) != fmt.Sprint(round) {
					t.Errorf("Last(%s) = %q, ok %v, %v", topic, last.Data, ok, err)
				}
				if m := newest[topic]; m.Version != last.Version || string(m.Data) != string(last.Data) {
					t.Errorf("subscribers of %s received %q, version %v, want version %v", topic, m.Data, m.Version, last.Version)
				}
			}
			if c := <-changes; c.Key.ID != fmt.Sprint("key ", round) {
				t.Errorf("WatchKeys reported %+v", c)
			}
			if _, err := b.Key(ctx, "queued"); !errors.Is(err, pubsub.ErrKeyNotFound) {
				t.Errorf("Key of a PutKey that wrote nothing: %v", err)
			}
			if err := put("after", fmt.Sprint(round)); err != nil {
				t.Errorf("Put after the disk recovered: %v", err)
			}
			<-delivered
		}
		cancel()
		running.Wait()
		checkStats(t, b)
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
}

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

// TestDiskFilledByOthers fills the disk to the last byte. The store writes nothing, the
// process survives, and with free space again everything works.
func TestDiskFilledByOthers(t *testing.T) {
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
