package app

import (
	"context"
	"runtime/debug"
	runtimemetrics "runtime/metrics"
	"time"
)

const (
	// trimInterval is the time between two looks at the heap.
	trimInterval = 5 * time.Second
	// quietBytes is how much may be allocated between two looks while there is little work.
	quietBytes = 4 << 20
	// trimBytes is how much must have been allocated for a trim to be worthwhile.
	trimBytes = 32 << 20
)

// heapTrimmer finds the times of little work after much. While many clients connect, the
// heap grows with the garbage of their handshakes. The runtime would return that memory to
// the system bit by bit, over many idle minutes.
type heapTrimmer struct {
	last    uint64 // bytes ever allocated, at the last look
	trimmed uint64 // the same, at the last trim
}

// due reports whether the heap should be trimmed now, when so many bytes have been allocated
// since the process started.
func (h *heapTrimmer) due(allocated uint64) bool {
	quiet := allocated-h.last < quietBytes
	h.last = allocated
	if !quiet || allocated-h.trimmed < trimBytes {
		return false
	}
	h.trimmed = allocated
	return true
}

// trimHeap returns unused memory to the system whenever that is due, until ctx is done.
func trimHeap(ctx context.Context) {
	t := time.NewTicker(trimInterval)
	defer t.Stop()
	var h heapTrimmer
	allocs := []runtimemetrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		runtimemetrics.Read(allocs)
		if h.due(allocs[0].Value.Uint64()) {
			debug.FreeOSMemory()
		}
	}
}
