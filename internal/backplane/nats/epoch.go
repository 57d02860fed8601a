package nats

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// epoch is the generation of the stream of retained messages, as this node knows it. Messages of
// other generations are never delivered: versions of two generations have no order, so the older
// message could replace the newer.
//
// A generation is a record in the stream itself, which nodes change by compare-and-set and read
// with every batch. Announcements carry it in their subject, which is a setting of the stream.
type epoch struct {
	mu         sync.RWMutex        // held for reading during a delivery
	generation uint64              // guarded by mu: 0 until it is known
	created    time.Time           // guarded by mu: when the stream was created
	retired    map[uint64]struct{} // guarded by mu: earlier generations, which must not return

	// seen is the greatest known sequence number of the generation.
	seen atomic.Uint64
}

// observe records that the stream has reached seq.
func (e *epoch) observe(seq uint64) {
	for {
		seen := e.seen.Load()
		if seq <= seen || e.seen.CompareAndSwap(seen, seq) {
			return
		}
	}
}

// current returns the generation.
func (e *epoch) current() uint64 {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.generation
}

// during calls f if g is the generation, which does not change while f runs. It reports whether
// it has called f.
func (e *epoch) during(g uint64, f func()) bool {
	e.mu.RLock()
	defer e.mu.RUnlock()
	if e.generation != g {
		return false
	}
	f()
	return true
}

// begin makes g the generation of a stream that was created at a time and has reached seq. It
// returns the generation before, and reports whether g may be used, which a retired one may not.
func (e *epoch) begin(g, seq uint64, created time.Time) (before uint64, ok bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	before = e.generation
	if before == g {
		e.created = created
		return g, true
	}
	if _, retired := e.retired[g]; retired {
		return before, false
	}
	if e.retired == nil {
		e.retired = map[uint64]struct{}{}
	}
	if before != 0 {
		e.retired[before] = struct{}{}
	}
	e.generation, e.created = g, created
	e.seen.Store(seq)
	return before, true
}

// isRetired reports whether g is an earlier generation.
func (e *epoch) isRetired(g uint64) bool {
	e.mu.RLock()
	defer e.mu.RUnlock()
	_, retired := e.retired[g]
	return retired
}

// createdAgain reports whether the stream was created at another time than the stream that this
// node knows.
func (e *epoch) createdAgain(info *jetstream.StreamInfo) bool {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return !e.created.IsZero() && !info.Created.Equal(e.created)
}
