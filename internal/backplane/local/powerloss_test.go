package local

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"pubsub"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// TestPowerLoss writes and reads on a file system that loses unsynced data. It cuts the
// power at a random moment and continues with the resulting state.
func TestPowerLoss(t *testing.T) {
	t.Parallel()
	fs := vfs.NewCrashableMem()
	h := newHistory()
	repeat(t, 60, func(rng *rand.Rand) {
		// A small disk results in small tables, so that some are written.
		fs.TestingSetDiskUsage(vfs.DiskUsage{AvailBytes: 1 << 40, TotalBytes: 16 << 20})
		b := open(t, Options{Dir: "/data", FS: fs})
		h.check(t, b)
		fs = crashAtRandom(t, rng, fs, b, h)
	})
}

// crashAtRandom uses b for a random time and returns the file system that a power cut
// leaves. h then is the history just before the power cut. b is closed.
func crashAtRandom(t *testing.T, rng *rand.Rand, fs *vfs.MemFS, b *Backplane, h *history) *vfs.MemFS {
	const writers, topics = 8, 40
	ctx := t.Context()
	stop := make(chan struct{})
	running := func() bool {
		select {
		case <-stop:
			return false
		default:
			return true
		}
	}
	crash := make(chan struct{})
	budget := 1 + rng.IntN(800) // puts until the crash
	var puts int                // guarded by h.mu
	var wg sync.WaitGroup
	for w := range writers {
		rng := rand.New(rand.NewPCG(rng.Uint64(), uint64(w)))
		wg.Go(func() {
			for running() {
				switch rng.IntN(40) {
				case 0:
					id := fmt.Sprint(rng.Uint64())
					if err := b.PutKey(ctx, pubsub.Key{ID: id, Value: "v"}); err != nil {
						t.Error(err)
					}
					h.mu.Lock()
					h.keys[id] = true
					h.mu.Unlock()
				case 1: // no message has expired
					if err := b.expire(ctx, time.Now()); err != nil {
						t.Error(err)
					}
				}
				m := message(pubsub.Topic(fmt.Sprint("t/", rng.IntN(topics))), "")
				if rng.IntN(10) > 0 {
					m.Data = fmt.Appendf(nil, "%d/%s", rng.Uint64(), strings.Repeat("x", rng.IntN(2000)))
				}
				if rng.IntN(5) == 0 {
					m.HasTTL, m.TTL = true, 3600
				}
				value := string(m.Data)
				wait := b.Put(ctx, m)
				if rng.IntN(4) == 0 {
					if last, ok, err := b.Last(ctx, m.Topic, pubsub.Version{}); err != nil {
						t.Error(err)
					} else if ok {
						h.saw(t, m.Topic, last.Version, string(last.Data))
					}
				}
				v, err := wait()
				if err != nil {
					t.Error(err)
					return
				}
				h.saw(t, m.Topic, v, value)
				h.mu.Lock()
				if puts++; puts == budget {
					close(crash)
				}
				h.mu.Unlock()
			}
		})
	}
	<-crash
	h.mu.Lock()
	crashed := fs.CrashClone(vfs.CrashCloneCfg{
		UnsyncedDataPercent: []int{0, 20, 50, 80, 100}[rng.IntN(5)],
		RNG:                 rng,
	})
	known := h.clone()
	h.mu.Unlock()
	close(stop)
	wg.Wait()
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	// Writes that began after the power cut have not happened; pending ones may have.
	h.values, h.newest, h.keys, h.taken, h.maybe = known.values, known.newest, known.keys, known.taken, h.values
	return crashed
}
