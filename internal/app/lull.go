package app

import (
	"context"
	"runtime/debug"
	runtimemetrics "runtime/metrics"
	"time"
)

const (
	// lullCheck is how often a lull is looked for.
	lullCheck = 5 * time.Second
	// lullBytes is how much may be allocated between two looks in a lull.
	lullBytes = 4 << 20
	// rushBytes is how much has been allocated when there is something to return.
	rushBytes = 32 << 20
)

// lull finds the moments of little work after much. While many clients come, the
// heap grows with what their handshakes leave behind; the runtime would return
// that to the system bit by bit, over many minutes in which nothing happens.
type lull struct {
	last     uint64 // bytes ever allocated, at the last look
	returned uint64 // the same, when memory was last returned
}

// begins reports whether memory is to be returned now, after so many bytes have
// been allocated since the process began.
func (l *lull) begins(allocated uint64) bool {
	quiet := allocated-l.last < lullBytes
	l.last = allocated
	if !quiet || allocated-l.returned < rushBytes {
		return false
	}
	l.returned = allocated
	return true
}

// returnMemory returns what the heap does not need to the system, whenever a lull
// begins, until ctx is done.
func returnMemory(ctx context.Context) {
	t := time.NewTicker(lullCheck)
	defer t.Stop()
	var l lull
	allocs := []runtimemetrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		runtimemetrics.Read(allocs)
		if l.begins(allocs[0].Value.Uint64()) {
			debug.FreeOSMemory()
		}
	}
}
