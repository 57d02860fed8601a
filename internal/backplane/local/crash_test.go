package local

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"pubsub"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// history is a test's record of a store across crashes.
type history struct {
	mu     sync.Mutex
	values map[pubsub.Version]string       // of all versions seen
	newest map[pubsub.Topic]pubsub.Version // acknowledged, or shown to a reader
	maybe  map[pubsub.Version]string       // pending when the power was cut
	taken  uint64                          // the highest sequence number seen
	keys   map[string]bool                 // acknowledged: true if put, false if deleted
}

func newHistory() *history {
	return &history{values: map[pubsub.Version]string{}, newest: map[pubsub.Topic]pubsub.Version{}, keys: map[string]bool{}}
}

// clone returns a copy of h. The caller holds h.mu if h is shared.
func (h *history) clone() *history {
	return &history{values: maps.Clone(h.values), newest: maps.Clone(h.newest), keys: maps.Clone(h.keys), taken: h.taken}
}

// saw records that v of topic was acknowledged or shown, with value.
func (h *history) saw(t *testing.T, topic pubsub.Topic, v pubsub.Version, value string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if old, ok := h.values[v]; ok && old != value {
		t.Errorf("version %v of %q is %q, was %q", v, topic, value, old)
	}
	h.values[v] = value
	if v.Newer(h.newest[topic]) {
		h.newest[topic] = v
	}
	h.taken = max(h.taken, v.Seq)
}

// sawLine is saw for a line of helpPublish.
func (h *history) sawLine(t *testing.T, line string) {
	t.Helper()
	f := strings.Fields(line)
	if len(f) != 3 {
		t.Fatalf("the helper printed %q", line)
	}
	v, err := pubsub.ParseVersion(f[1])
	if err != nil {
		t.Fatalf("the helper printed %q: %v", line, err)
	}
	h.saw(t, pubsub.Topic(f[0]), v, f[2])
}

// check checks that b has lost nothing of h.
func (h *history) check(t *testing.T, b *Backplane) {
	t.Helper()
	ctx := t.Context()
	for topic, v := range h.newest {
		if v.Generation != b.generation {
			t.Errorf("generation %x, was %x", b.generation, v.Generation)
		}
		m, rec, ok, err := b.read(topic)
		if err != nil || !ok {
			t.Errorf("%q: version %v is lost (error %v)", topic, v, err)
			continue
		}
		if rec.seq < v.Seq {
			t.Errorf("%q: version %v was replaced by the older %v", topic, v, m.Version)
		}
		if value, ok := h.maybe[m.Version]; ok && m.Version != v && value != string(m.Data) {
			t.Errorf("%q: version %v reads %q, was %q", topic, m.Version, m.Data, value)
		}
		h.saw(t, topic, m.Version, string(m.Data))
		if last, ok, err := b.Last(ctx, topic, pubsub.Version{}); err != nil || ok == rec.marker || ok && last.Version != m.Version {
			t.Errorf("%q: Last = %v, ok %v, error %v", topic, last.Version, ok, err)
		}
	}
	for id, there := range h.keys {
		if _, err := b.Key(ctx, id); there && err != nil || !there && !errors.Is(err, pubsub.ErrKeyNotFound) {
			t.Errorf("key %q: error %v, existed before the crash: %v", id, err, there)
		}
	}
	v, err := b.Put(ctx, message("after the crash", "x"))()
	if err != nil || v.Seq <= h.taken {
		t.Errorf("Put after the crash = %v, %v, want a number above %d", v, err, h.taken)
	}
	h.saw(t, "after the crash", v, "x")
	checkStats(t, b)
}

// message returns a retained message, published now, that never expires.
func message(topic pubsub.Topic, data string) pubsub.Message {
	return pubsub.Message{Topic: topic, Data: []byte(data), Retain: true, Published: time.Now()}
}

// newRand returns a source of random numbers and logs its seed.
func newRand(t *testing.T) *rand.Rand {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// repeat calls round n times, or until a round fails. The seed of rng is logged.
func repeat(t *testing.T, n int, round func(rng *rand.Rand)) {
	t.Helper()
	rng := newRand(t)
	for i := range n {
		if round(rng); t.Failed() {
			t.Fatalf("round %d failed", i)
		}
	}
}

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
