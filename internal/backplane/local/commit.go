package local

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"pubsub"

	"github.com/cockroachdb/pebble/v2"
)

// seqBlock is the number of sequence numbers reserved at a time. The unused rest of a
// block is lost when the process exits.
const seqBlock = 1 << 16

// stallAfter is how long a write may take before the disk counts as stalled.
const stallAfter = 5 * time.Second

// committer numbers batches, applies them to the engine one after the other, and tracks
// which of them are durable.
//
// The engine shows a batch to readers before it is on disk. To show nothing that a crash
// could undo, a reader waits until the number that it has read is synced: see waitSynced.
// Numbers follow the order of the engine's log, so all numbers before a synced one are
// synced too. The high-water mark above a number is in the same batch or an earlier one,
// so a number that a reader has seen is never used again.
//
// Applying a batch and syncing it can each take arbitrarily long, so each has a goroutine
// of its own, and a caller can give up. Once a write has taken stallAfter, the committer
// is stalled until every pending write is done: all waiting callers give up, and callers
// refuse new writes. A write that was given up is still completed when the disk recovers,
// and then announced.
type committer struct {
	// immutable
	db       *pebble.DB
	fatal    func(error)
	announce func(pubsub.Topic) // called when a message that was given up is durable
	// writes are reused by this committer only, because a channel that was made in a
	// synctest bubble must not leave it.
	writes  sync.Pool
	toApply chan struct{} // one slot: a batch may be ready to apply, or closing is set
	toSync  chan struct{} // one slot: a batch may be ready to sync, or closing is set and all are applied
	done    sync.WaitGroup

	mu sync.Mutex
	// guarded by mu
	next    uint64   // the next number
	limit   uint64   // numbers below it are reserved
	queue   []*write // in order: nil for finished writes, then applied ones, then new ones
	first   int      // index in queue of the first unfinished write
	ready   int      // index in queue of the first write that is not applied
	ordinal uint64   // of the last queued write
	closing bool
	watch   *time.Timer // runs checkStall; nil if not scheduled

	applied        atomic.Uint64 // the last number that readers may see
	appliedOrdinal atomic.Uint64 // of the last applied write
	synced         atomic.Uint64 // this number and all before it are durable

	// stall is closed when the committer stalls, and replaced when the stall is over. It
	// is changed with mu held.
	stall atomic.Pointer[chan struct{}]

	progressMu sync.Mutex
	progress   chan struct{} // closed when a write was applied or synced; nil without a waiter
}

// write is a batch on its way to the disk. Writes are reused, but not if they were given
// up.
type write struct {
	log   *committer // immutable
	batch *pebble.Batch
	seq   uint64       // 0 if it has no number
	topic pubsub.Topic // of a message
	lazy  bool         // it need not be synced, and no caller waits for it
	late  func()       // called, if not nil, when a write that was given up becomes durable
	began time.Time
	state atomic.Int32 // pending, finished or givenUp
	done  chan error   // one slot: the outcome
	key   []byte       // scratch
}

const (
	pending int32 = iota
	finished
	givenUp
)

func newCommitter(db *pebble.DB, announce func(pubsub.Topic), fatal func(error)) *committer {
	c := &committer{
		db:       db,
		fatal:    fatal,
		announce: announce,
		toApply:  make(chan struct{}, 1),
		toSync:   make(chan struct{}, 1),
	}
	working := make(chan struct{})
	c.stall.Store(&working)
	c.done.Go(c.applyAll)
	c.done.Go(c.syncAll)
	return c
}

// start sets the first number to use: all numbers below highWater may be in use. It must
// be called before the first commit.
func (c *committer) start(highWater uint64) {
	c.next, c.limit = highWater, highWater
	c.applied.Store(highWater - 1)
	c.synced.Store(highWater - 1)
}

// unused returns a write without a batch. The caller returns it to c.writes.
func (c *committer) unused() *write {
	if w, ok := c.writes.Get().(*write); ok {
		return w
	}
	return &write{log: c, done: make(chan error, 1)}
}

// newWrite returns an empty write.
func (c *committer) newWrite() *write {
	w := c.unused()
	w.batch, w.seq, w.topic, w.lazy, w.late = c.db.NewBatch(), 0, "", false, nil
	w.state.Store(pending)
	return w
}

// abandon releases a write that will not be committed.
func (c *committer) abandon(w *write) {
	c.check(w.batch.Close())
	w.batch = nil
	c.writes.Put(w)
}

// commit queues w for the engine and returns its ordinal. If number is not nil, w takes
// the next sequence number and writes it to number, which must lie in the last value of
// the batch. w is durable when its wait returns nil.
func (c *committer) commit(w *write, number []byte) (ordinal uint64) {
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
	w.began = time.Now()
	c.queue = append(c.queue, w)
	c.ordinal++
	if c.watch == nil {
		c.watch = time.AfterFunc(stallAfter, c.checkStall)
	}
	signal(c.toApply)
	return c.ordinal
}

// apply applies a batch in the engine.
func (c *committer) apply(w *write) {
	// The engine panics if its log is broken. The panic must not reach a caller that
	// recovers from it.
	defer func() {
		if r := recover(); r != nil {
			c.fatal(fmt.Errorf("%v", r))
		}
	}()
	if w.lazy {
		c.check(c.db.Apply(w.batch, pebble.NoSync))
		return
	}
	c.check(c.db.ApplyNoSyncWait(w.batch, pebble.Sync))
}

func (c *committer) check(err error) {
	if err != nil {
		c.fatal(err)
	}
}

// signal wakes the goroutine that waits for c, a channel of one slot.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// applyAll applies queued batches, in order, until the committer is closed.
func (c *committer) applyAll() {
	var batch []*write
	for {
		c.mu.Lock()
		batch = append(batch[:0], c.queue[c.ready:]...)
		closing := c.closing
		c.mu.Unlock()
		if len(batch) == 0 {
			if closing {
				signal(c.toSync)
				return
			}
			<-c.toApply
			continue
		}
		for i, w := range batch {
			batch[i] = nil
			c.apply(w)
			if w.seq != 0 {
				c.applied.Store(w.seq)
			}
			c.mu.Lock()
			c.ready++
			c.mu.Unlock()
			c.appliedOrdinal.Add(1)
			c.notifyProgress()
			signal(c.toSync)
		}
	}
}

// syncAll waits for the syncs of applied batches, in order, and reports each.
func (c *committer) syncAll() {
	var batch []*write
	for {
		c.mu.Lock()
		batch = append(batch[:0], c.queue[c.first:c.ready]...)
		over := c.closing && c.first == len(c.queue)
		c.mu.Unlock()
		if over {
			return
		}
		if len(batch) == 0 {
			<-c.toSync
			continue
		}
		for i, w := range batch {
			batch[i] = nil
			c.finish(w)
		}
	}
}

// finish waits until w, the first write in the queue, is durable, and removes it.
func (c *committer) finish(w *write) {
	if !w.lazy {
		c.check(w.batch.SyncWait()) // on failure, the engine's memory stays ahead of its disk
	}
	c.check(w.batch.Close())
	w.batch = nil
	if w.seq != 0 {
		c.synced.Store(w.seq)
		c.notifyProgress()
	}
	c.removeFirst()
	switch {
	case w.lazy:
		c.writes.Put(w)
	case w.state.CompareAndSwap(pending, finished):
		w.done <- nil
	case w.late != nil:
		w.late()
	case w.topic != "":
		c.announce(w.topic)
	}
}

// removeFirst removes the first write from the queue.
func (c *committer) removeFirst() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.queue[c.first] = nil
	c.first++
	if n := len(c.queue); c.first == n || c.first >= 1024 && c.first > n/2 {
		c.queue = slices.Delete(c.queue, 0, c.first)
		c.ready -= c.first
		c.first = 0
	}
	if len(c.queue) > 0 {
		return
	}
	if stall := *c.stall.Load(); isClosed(stall) { // the stall is over
		working := make(chan struct{})
		c.stall.Store(&working)
	}
}

// checkStall stalls the committer if the oldest write has taken too long. It runs again
// later if a write is pending.
func (c *committer) checkStall() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.first == len(c.queue) {
		c.watch = nil
		return
	}
	left := stallAfter - time.Since(c.queue[c.first].began)
	if left <= 0 {
		if stall := *c.stall.Load(); !isClosed(stall) {
			close(stall)
		}
		left = stallAfter
	}
	c.watch.Reset(left)
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// stalled returns an error, [pubsub.ErrUnavailable], if the committer is stalled.
func (c *committer) stalled() error {
	if isClosed(*c.stall.Load()) {
		return errStalled
	}
	return nil
}

var errStalled = fmt.Errorf("%w: the disk has not finished a write for %v", pubsub.ErrUnavailable, stallAfter)

// wait waits until w is durable and releases it. When the committer is stalled, wait
// gives up and returns errStalled. It never gives up for another reason, because the
// order is fixed and the caller needs the outcome to continue.
func (w *write) wait() error {
	stall := *w.log.stall.Load()
	select {
	case <-w.done:
	case <-stall:
		if w.state.CompareAndSwap(pending, givenUp) {
			return errStalled // w now belongs to the committer
		}
		<-w.done
	}
	w.log.writes.Put(w)
	return nil
}

// notifyProgress wakes all callers of waitFor.
func (c *committer) notifyProgress() {
	c.progressMu.Lock()
	if c.progress != nil {
		close(c.progress)
		c.progress = nil
	}
	c.progressMu.Unlock()
}

// waitSynced waits until the batch numbered seq is durable. The error is ctx's, or
// errStalled.
func (c *committer) waitSynced(ctx context.Context, seq uint64) error {
	return c.waitFor(ctx, &c.synced, seq)
}

// waitApplied waits until readers see the write with that ordinal. The error is
// errStalled.
func (c *committer) waitApplied(ordinal uint64) error {
	return c.waitFor(context.Background(), &c.appliedOrdinal, ordinal)
}

// waitAllApplied waits until readers see all committed writes. The error is errStalled.
func (c *committer) waitAllApplied() error {
	c.mu.Lock()
	ordinal := c.ordinal
	c.mu.Unlock()
	return c.waitApplied(ordinal)
}

// waitFor waits until counter is at least n.
func (c *committer) waitFor(ctx context.Context, counter *atomic.Uint64, n uint64) error {
	for counter.Load() < n {
		stall := *c.stall.Load()
		c.progressMu.Lock()
		if counter.Load() >= n {
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
		case <-stall:
			return errStalled
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// close waits until all committed writes are durable and stops the goroutines.
func (c *committer) close() {
	c.mu.Lock()
	c.closing = true
	c.mu.Unlock()
	signal(c.toApply)
	signal(c.toSync)
	c.done.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.watch != nil {
		c.watch.Stop()
	}
}
