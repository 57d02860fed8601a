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

// seqBlock is how many sequence numbers are reserved at a time. What is left of
// a block when the process ends is never used.
const seqBlock = 1 << 16

// stallAfter is how long a write may take before the disk counts as stalled.
const stallAfter = 5 * time.Second

// committer puts batches into the engine one after the other, numbers them, and
// knows which of them are durable.
//
// The engine shows a batch to readers before it is on disk. So that nothing is
// shown which a crash could take back, a reader waits, by number, until what it
// has read is synced: see waitSynced. Numbers are given in the order of the
// engine's log, so that what comes before a synced number is synced too, and
// the high-water mark that covers a number travels in the same or an earlier
// batch: a number that anybody has seen is never given again.
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
	// writes are for use again, by this committer only: a channel that was made in
	// a synctest bubble must not leave it.
	writes  sync.Pool
	toApply chan struct{} // one slot: a batch may be ready to apply, or closing is set
	toSync  chan struct{} // one slot: a batch may be ready to sync, or closing is set and all are applied
	done    sync.WaitGroup

	mu sync.Mutex
	// guarded by mu
	next    uint64   // the next number
	limit   uint64   // numbers below it are reserved
	queue   []*write // in order: nil once done, then those to be synced, then those to be applied
	first   int      // index in queue of the first that is not done
	ready   int      // index in queue of the first that is not applied
	ordinal uint64   // of the last write that was queued
	closing bool
	watch   *time.Timer // looks at the age of the oldest write; nil if none is under way

	applied        atomic.Uint64 // the last number that readers may see
	appliedOrdinal atomic.Uint64 // of the last write that was applied
	synced         atomic.Uint64 // this number and all before it are durable

	// stall is closed when the committer stalls, and replaced when the stall is over. It
	// is changed with mu held.
	stall atomic.Pointer[chan struct{}]

	progressMu sync.Mutex
	progress   chan struct{} // closed when a write was applied or synced; nil if nobody waits
}

// write is a batch on its way to the disk. One that was waited for is used
// again.
type write struct {
	log   *committer // immutable
	batch *pebble.Batch
	seq   uint64       // 0 if it has no number
	topic pubsub.Topic // of a message
	lazy  bool         // it need not be synced, and nobody waits for it
	late  func()       // called, if not nil, once it is durable after it was given up
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
	w.batch, w.seq, w.topic, w.lazy, w.late = c.db.NewBatch(), 0, "", false, nil
	w.state.Store(pending)
	return w
}

// abandon lets go of a write that is not to be committed.
func (c *committer) abandon(w *write) {
	c.check(w.batch.Close())
	w.batch = nil
	c.writes.Put(w)
}

// commit gives w its place in the engine's order and returns its ordinal. If number is
// not nil, w takes the next number and writes it there, in the batch's last value. w is
// durable when its wait returns nil.
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
		c.watch = time.AfterFunc(stallAfter, c.look)
	}
	signal(c.toApply)
	return c.ordinal
}

// apply hands a batch to the engine.
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

// applyAll applies what is queued, in order.
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
			c.tellProgress()
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

// finish waits until w, the first in the queue, is durable, and takes it off.
func (c *committer) finish(w *write) {
	if !w.lazy {
		c.check(w.batch.SyncWait()) // on failure, the engine's memory stays ahead of its disk
	}
	c.check(w.batch.Close())
	w.batch = nil
	if w.seq != 0 {
		c.synced.Store(w.seq)
		c.tellProgress()
	}
	c.takeOff()
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

// takeOff removes the first write from the queue.
func (c *committer) takeOff() {
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
	if stall := *c.stall.Load(); isClosed(stall) { // that is over
		working := make(chan struct{})
		c.stall.Store(&working)
	}
}

// look stalls the committer if the oldest write has taken too long, and looks again later
// if a write is left.
func (c *committer) look() {
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
			return errStalled // and w is the committer's
		}
		<-w.done
	}
	w.log.writes.Put(w)
	return nil
}

func (c *committer) tellProgress() {
	c.progressMu.Lock()
	if c.progress != nil {
		close(c.progress)
		c.progress = nil
	}
	c.progressMu.Unlock()
}

// waitSynced waits until the batch numbered seq is durable. The error is that of ctx, or
// errStalled.
func (c *committer) waitSynced(ctx context.Context, seq uint64) error {
	return c.waitFor(ctx, &c.synced, seq)
}

// waitApplied waits until readers see the write of that ordinal. The error is errStalled.
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

// close waits until all that was committed is durable.
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
