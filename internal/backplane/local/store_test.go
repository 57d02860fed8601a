package local

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"pubsub"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// heldLog delays syncs of the engine's log.
type heldLog struct {
	mu   sync.RWMutex  // held for writing while syncs must wait
	seen chan struct{} // one slot: a sync was begun
}

func newHeldLog() (*heldLog, vfs.FS) {
	l := &heldLog{seen: make(chan struct{}, 1)}
	return l, errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		switch op.Kind {
		case errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo:
			if filepath.Ext(op.Path) == ".log" {
				select {
				case l.seen <- struct{}{}:
				default:
				}
				l.mu.RLock()
				defer l.mu.RUnlock()
			}
		}
		return nil
	}))
}

// TestNothingUnsyncedIsShown delays the disk's syncs. Readers must wait until the record
// that they read is durable or their context is done, and publishers to other topics must
// not wait for it.
func TestNothingUnsyncedIsShown(t *testing.T) {
	held, fs := newHeldLog()
	b := open(t, Options{Dir: "/data", FS: fs})
	defer b.Close()
	ctx := t.Context()
	old, err := b.Put(ctx, message("t", "old"))()
	if err != nil {
		t.Fatal(err)
	}
	other, err := b.Put(ctx, message("other", "old"))()
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-held.seen:
	default:
	}
	held.mu.Lock()
	wait := b.Put(ctx, message("t", "new"))
	<-held.seen
	waitClear := b.Put(ctx, message("other", ""))

	// The context ends while the reader waits.
	short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancel()
	if m, ok, err := b.Last(short, "t", pubsub.Version{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Last of a message that is not durable = %q, ok %v, error %v", m.Data, ok, err)
	}
	if l, err := b.List(short, "", "", 10); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("List with a message that is not durable = %v, %v", l, err)
	}
	// A topic without a pending write can be read.
	if _, ok, err := b.Last(ctx, "untouched", pubsub.Version{}); ok || err != nil {
		t.Errorf("Last of another topic: ok %v, error %v", ok, err)
	}
	type result struct {
		m   pubsub.Message
		ok  bool
		err error
	}
	read := func(topic pubsub.Topic, after pubsub.Version) <-chan result {
		c := make(chan result, 1)
		go func() {
			var r result
			r.m, r.ok, r.err = b.Last(ctx, topic, after)
			c <- r
		}()
		return c
	}
	newer, cleared, none := read("t", old), read("other", other), read("other", pubsub.Version{})
	select {
	case r := <-newer:
		t.Errorf("Last did not wait: %q", r.m.Data)
	case r := <-cleared:
		t.Errorf("Last did not wait: %q", r.m.Data)
	case r := <-none:
		t.Errorf("Last did not wait: %q", r.m.Data)
	case <-time.After(20 * time.Millisecond): // a result without the wait is immediate
	}
	held.mu.Unlock()
	v, err := wait()
	if err != nil {
		t.Fatal(err)
	}
	w, err := waitClear()
	if err != nil {
		t.Fatal(err)
	}
	if r := <-newer; r.err != nil || !r.ok || r.m.Version != v || string(r.m.Data) != "new" {
		t.Errorf("Last = %q %v, ok %v, error %v, want the new message %v", r.m.Data, r.m.Version, r.ok, r.err, v)
	}
	if r := <-cleared; r.err != nil || !r.ok || r.m.Version != w {
		t.Errorf("Last = %v, ok %v, error %v, want the clear %v", r.m.Version, r.ok, r.err, w)
	}
	if r := <-none; r.err != nil || r.ok {
		t.Errorf("Last without a version = ok %v, error %v, want nothing", r.ok, r.err)
	}
}

// TestNumbersAreNotReused restarts repeatedly, each time after the records with the highest
// numbers have expired.
func TestNumbersAreNotReused(t *testing.T) {
	fs := vfs.NewMem()
	var last uint64
	for range 5 {
		b := open(t, Options{Dir: "/data", FS: fs})
		for range 3 {
			m := message("t", "x")
			m.HasTTL, m.TTL = true, 1
			v, err := b.Put(t.Context(), m)()
			if err != nil {
				t.Fatal(err)
			}
			if v.Seq <= last {
				t.Errorf("number %d follows %d", v.Seq, last)
			}
			last = v.Seq
		}
		if err := b.expire(t.Context(), time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestBlocksOfNumbers crashes a store that has used up a block of reserved numbers.
func TestBlocksOfNumbers(t *testing.T) {
	fs := vfs.NewCrashableMem()
	b := open(t, Options{Dir: "/data", FS: fs})
	ctx := t.Context()
	put := func(b *Backplane) uint64 {
		t.Helper()
		v, err := b.Put(ctx, message("t", "x"))()
		if err != nil {
			t.Fatal(err)
		}
		return v.Seq
	}
	first := put(b)
	b.log.mu.Lock()
	b.log.next = b.log.limit - 2
	b.log.mu.Unlock()
	var last uint64
	for range 4 {
		last = put(b)
	}
	if last < first+seqBlock {
		t.Fatalf("number %d is not in the second block, the first was %d", last, first)
	}
	crashed := fs.CrashClone(vfs.CrashCloneCfg{})
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	b = open(t, Options{Dir: "/data", FS: crashed})
	defer b.Close()
	if again := put(b); again <= last {
		t.Errorf("number %d follows %d", again, last)
	}
}

// TestGenerations checks that two stores have different generations.
func TestGenerations(t *testing.T) {
	a, b := open(t, Options{InMemory: true}), open(t, Options{InMemory: true})
	defer a.Close()
	defer b.Close()
	if a.generation == 0 || a.generation == b.generation {
		t.Errorf("generations %x and %x", a.generation, b.generation)
	}
}

// TestCloseDuringUse closes a store under load. Every pending Put returns, and every
// acknowledged message survives a restart.
func TestCloseDuringUse(t *testing.T) {
	fs := vfs.NewMem()
	b := open(t, Options{Dir: "/data", FS: fs})
	h := newHistory()
	started := make(chan struct{}, 1000)
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := 0; ; i++ {
				topic := pubsub.Topic(fmt.Sprint("t/", rand.IntN(20)))
				value := fmt.Sprint(w, "/", i)
				v, err := b.Put(context.Background(), message(topic, value))()
				if errors.Is(err, pubsub.ErrClosed) {
					return
				}
				if err != nil {
					t.Error(err)
					return
				}
				h.saw(t, topic, v, value)
				if _, _, err := b.Last(context.Background(), topic, pubsub.Version{}); err != nil && !errors.Is(err, pubsub.ErrClosed) {
					t.Error(err)
				}
				if _, err := b.List(context.Background(), "", "", 5); err != nil && !errors.Is(err, pubsub.ErrClosed) {
					t.Error(err)
				}
				select {
				case started <- struct{}{}:
				default:
				}
			}
		})
	}
	for range 100 {
		<-started
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	wg.Wait()
	b = open(t, Options{Dir: "/data", FS: fs})
	defer b.Close()
	h.check(t, b)
}
