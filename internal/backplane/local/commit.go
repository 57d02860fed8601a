package local

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
)

// seqBlock is how many sequence numbers are reserved at a time. What is left of
// a block when the process ends is never used.
const seqBlock = 1 << 16

// committer puts batches into the engine one after the other, numbers them, and
// knows which of them are durable.
//
// The engine shows a batch to readers before it is on disk. So that nothing is
// shown which a crash could take back, a reader waits, by number, until what it
// has read is synced: see waitSynced. Numbers are given in the order of the
// engine's log, so that what comes before a synced number is synced too, and
// the high-water mark that covers a number travels in the same or an earlier
// batch: a number that anybody has seen is never given again.
type committer struct {
	// immutable
	db    *pebble.DB
	fatal func(error)
	// writes are for use again, by this committer only: a channel that was made in
	// a synctest bubble must not leave it.
	writes sync.Pool
	wake   chan struct{} // one slot: there is something in queue, or closing is set
	done   chan struct{} // closed when the syncing goroutine has ended

	mu      sync.Mutex // held while a batch is numbered and applied
	next    uint64     // the next number
	limit   uint64     // numbers below it are reserved
	queue   []*write   // applied and not synced, in order
	closing bool

	applied atomic.Uint64 // the last number given
	synced  atomic.Uint64 // it and those before it are durable

	progressMu sync.Mutex
	progress   chan struct{} // closed when synced grows; nil if nobody waits
}

// write is a batch on its way to the disk. One that was waited for is used
// again.
type write struct {
	log   *committer // immutable
	batch *pebble.Batch
	seq   uint64     // 0 if it has no number
	done  chan error // one slot: the outcome
	key   []byte     // scratch
}

func newCommitter(db *pebble.DB, fatal func(error)) *committer {
	c := &committer{
		db:    db,
		fatal: fatal,
		wake:  make(chan struct{}, 1),
		done:  make(chan struct{}),
	}
	go c.run()
	return c
}

// start says that numbers below highWater may have been given. It is called
// before the first commit.
func (c *committer) start(highWater uint64) {
	c.next, c.limit = highWater, highWater
	c.applied.Store(highWater - 1)
	c.synced.Store(highWater - 1)
}

// unused returns a write without a batch, which goes back to c.writes.
func (c *committer) unused() *write {
	if w, ok := c.writes.Get().(*write); ok {
		return w
	}
	return &write{log: c, done: make(chan error, 1)}
}

// newWrite returns an empty write.
func (c *committer) newWrite() *write {
	w := c.unused()
	w.batch, w.seq = c.db.NewBatch(), 0
	return w
}

// abandon lets go of a write that is not to be committed.
func (c *committer) abandon(w *write) {
	c.check(w.batch.Close())
	w.batch = nil
	c.writes.Put(w)
}

// commit applies w. If number is not nil, w takes the next number, which is
// written there: it lies in the batch's last value. The batch is in the
// engine's order when commit returns, and durable when wait does.
func (c *committer) commit(w *write, number []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if number != nil {
		w.seq = c.next
		c.next++
		binary.BigEndian.PutUint64(number, w.seq)
		if w.seq >= c.limit { // the batch may move: number is not used after this
			c.limit = w.seq + seqBlock
			c.check(w.batch.Set(highWaterKey, binary.BigEndian.AppendUint64(nil, c.limit), nil))
		}
	}
	c.apply(w.batch)
	if number != nil {
		c.applied.Store(w.seq)
	}
	c.queue = append(c.queue, w)
	c.signal()
}

// apply hands a batch to the engine, which is to sync it.
func (c *committer) apply(b *pebble.Batch) {
	defer c.recover()
	c.check(c.db.ApplyNoSyncWait(b, pebble.Sync))
}

// applyUnsynced hands a batch to the engine that may be lost.
func (c *committer) applyUnsynced(b *pebble.Batch) {
	defer c.recover()
	c.check(c.db.Apply(b, pebble.NoSync))
}

// recover is deferred around the engine's writes. It panics if its log is
// broken; the panic must not reach somebody who recovers from it.
func (c *committer) recover() {
	if r := recover(); r != nil {
		c.fatal(fmt.Errorf("%v", r))
	}
}

func (c *committer) check(err error) {
	if err != nil {
		c.fatal(err)
	}
}

// signal wakes the syncing goroutine.
func (c *committer) signal() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// wait waits until w is durable and lets go of it. There is nothing to give up
// early for: the order is fixed, and the outcome is needed to go on.
func (w *write) wait() error {
	err := <-w.done
	w.log.writes.Put(w)
	return err
}

// run waits for the batches to be synced, in order, and tells.
func (c *committer) run() {
	defer close(c.done)
	var taken []*write
	for {
		c.mu.Lock()
		taken, c.queue = c.queue, taken[:0]
		closing := c.closing
		c.mu.Unlock()
		if len(taken) == 0 {
			if closing {
				return
			}
			<-c.wake
			continue
		}
		for i, w := range taken {
			taken[i] = nil
			err := w.batch.SyncWait()
			c.check(err) // the engine's memory is ahead of its disk for good
			if w.seq != 0 {
				c.synced.Store(w.seq)
				c.tellProgress()
			}
			c.check(w.batch.Close())
			w.batch = nil
			w.done <- err
		}
	}
}

func (c *committer) tellProgress() {
	c.progressMu.Lock()
	if c.progress != nil {
		close(c.progress)
		c.progress = nil
	}
	c.progressMu.Unlock()
}

// waitSynced returns once the batch numbered seq is durable, or with ctx's error.
func (c *committer) waitSynced(ctx context.Context, seq uint64) error {
	for c.synced.Load() < seq {
		c.progressMu.Lock()
		if c.synced.Load() >= seq {
			c.progressMu.Unlock()
			return nil
		}
		if c.progress == nil {
			c.progress = make(chan struct{})
		}
		progress := c.progress
		c.progressMu.Unlock()
		select {
		case <-progress:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// close waits until all that was committed is durable.
func (c *committer) close() {
	c.mu.Lock()
	c.closing = true
	c.signal()
	c.mu.Unlock()
	<-c.done
}
