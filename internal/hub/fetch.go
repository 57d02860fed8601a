package hub

import (
	"context"
	"errors"
	"sync"
	"time"

	"pubsub"
)

const (
	// maxConcurrentFetches is the maximum number of goroutines that read the store.
	maxConcurrentFetches = 64
	// fetchRetryDelay is the time from a failed fetch until the next attempt.
	fetchRetryDelay = time.Second
)

// fetches reads the store for subscriptions with a pending fetch. It bounds the number of
// goroutines, because very many clients may begin to read at the same time.
type fetches struct {
	mu sync.Mutex
	// guarded by mu
	queue   []fetch
	running int
	failed  []failedFetch
	timer   *time.Timer // of retryFailed; runs while failed is not empty
	ended   bool        // no new fetch begins

	goroutines sync.WaitGroup

	// immutable
	ctx    context.Context // of all reads
	cancel context.CancelFunc
}

func (q *fetches) init() { q.ctx, q.cancel = context.WithCancel(context.Background()) }

// fetch is a subscription for which the store must be read.
type fetch struct {
	sub  *Subscription
	kind fetchKind
}

// failedFetch has fetches of a subscriber for which the store was unavailable.
type failedFetch struct {
	subscriber *Subscriber
	fetches    []fetch
}

// add queues f.
func (q *fetches) add(h *Hub, f fetch) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.ended {
		return
	}
	q.queue = append(q.queue, f)
	if q.running < maxConcurrentFetches {
		q.running++
		q.goroutines.Go(func() { q.run(h) })
	}
}

// run performs queued fetches until the queue is empty.
func (q *fetches) run(h *Hub) {
	for {
		q.mu.Lock()
		if len(q.queue) == 0 {
			q.queue = nil // otherwise its array would stay in memory
			q.running--
			q.mu.Unlock()
			return
		}
		f := q.queue[0]
		q.queue[0] = fetch{}
		q.queue = q.queue[1:]
		q.mu.Unlock()
		f.do(h)
	}
}

// retryLater retries f after a delay. Until then, the subscriber sleeps.
func (q *fetches) retryLater(f failedFetch) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.ended {
		return
	}
	q.failed = append(q.failed, f)
	if len(q.failed) == 1 {
		q.timer = time.AfterFunc(fetchRetryDelay, q.retryFailed)
	}
}

// retryFailed wakes the subscribers of failed fetches, which then fetch again.
func (q *fetches) retryFailed() {
	q.mu.Lock()
	if q.ended {
		q.mu.Unlock()
		return
	}
	failed := q.failed
	q.failed = nil
	q.goroutines.Add(1)
	q.mu.Unlock()
	defer q.goroutines.Done()
	for _, f := range failed {
		if f.subscriber.fetched(f.fetches, nil) {
			f.subscriber.wake()
		}
	}
}

// end cancels the pending fetches and waits for them.
func (q *fetches) end() {
	q.mu.Lock()
	q.ended, q.queue, q.failed = true, nil, nil
	if q.timer != nil {
		q.timer.Stop()
	}
	q.mu.Unlock()
	q.cancel()
	q.goroutines.Wait()
}

// do reads the store and lets the subscriber continue. If the subscriber's next
// subscriptions have pending fetches too, do performs them as well, until the messages
// fill one piece. If the store is unavailable, the remaining fetches are retried later.
func (f fetch) do(h *Hub) {
	s := f.sub.subscriber
	fs := []fetch{f}
	var err error
	done := 0
	for size := 0; done < len(fs) && size < maxPiece; {
		var results []fetchResult
		if results, err = readAll(h, fs[done:]); err != nil {
			break
		}
		for i := 0; i < len(results) && size < maxPiece; i++ { // the others are fetched again later
			if pm := results[i].msg; pm != nil {
				size += pm.MaxEncodedSize
			}
			fs[done].apply(&results[i], &h.backlog)
			done++
		}
		if size < maxPiece {
			fs = s.appendPendingFetches(fs, h.opts.FetchConcurrency)
		}
	}
	if err != nil && isUnavailable(err) {
		h.opts.FetchFailed(err)
		h.fetches.retryLater(failedFetch{s, fs[done:]})
		if done == 0 {
			return
		}
		fs, err = fs[:done], nil
	}
	if s.fetched(fs, err) {
		s.wake()
	}
}

// isUnavailable reports whether a later fetch may succeed.
func isUnavailable(err error) bool {
	return errors.Is(err, pubsub.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded)
}

// fetchResult is the result of reading the store for a subscription.
type fetchResult struct {
	msg       *pubsub.PreparedMessage // nil if there is none
	forgotten pubsub.Version          // the log's newest version before the store was read
	err       error
}

// readAll reads the store for all of fs concurrently.
func readAll(h *Hub, fs []fetch) ([]fetchResult, error) {
	results := make([]fetchResult, len(fs))
	if len(fs) == 1 {
		fs[0].read(h, &results[0])
		return results, results[0].err
	}
	var wg sync.WaitGroup
	for i := range fs {
		wg.Go(func() { fs[i].read(h, &results[i]) })
	}
	wg.Wait()
	for i := range results {
		if results[i].err != nil {
			return nil, results[i].err
		}
	}
	return results, nil
}

func (f fetch) read(h *Hub, r *fetchResult) {
	sub := f.sub
	sub.log.mu.Lock()
	seen := sub.seen
	r.forgotten = sub.log.newestVersion
	sub.log.mu.Unlock()
	if f.kind == fetchRetained {
		seen = pubsub.Version{}
	}
	ctx, cancel := context.WithTimeout(h.fetches.ctx, h.opts.SubscribeTimeout)
	defer cancel()
	r.msg, _, r.err = sub.Last(ctx, seen)
}

// apply passes r to the subscription. It clears f.kind, unless r is out of date and must
// be fetched again.
func (f *fetch) apply(r *fetchResult, b *backlog) {
	sub, kind := f.sub, f.kind
	f.kind = fetchNothing
	switch {
	case kind == fetchForgotten:
		if !sub.log.replaceForgotten(sub, r.msg, r.forgotten, b) {
			f.kind = fetchForgotten
		}
	case r.msg != nil:
		sub.log.resume(sub, false, r.msg, kind == fetchNewer, pubsub.Version{}, b)
	}
}

// appendPendingFetches appends fetches for up to n of the first ready subscriptions to
// fs. It stops at the first one that has no pending fetch.
func (s *Subscriber) appendPendingFetches(fs []fetch, n int) []fetch {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.readyTail == nil {
		return fs
	}
	for sub := s.readyTail.next; n > 0; sub = sub.next {
		switch {
		case sub.fetching || sub.paused:
		case sub.pendingFetch == fetchNothing:
			return fs
		default:
			fs = append(fs, fetch{sub, sub.pendingFetch})
			sub.pendingFetch, sub.fetching = fetchNothing, true
			n--
		}
		if sub == s.readyTail {
			break
		}
	}
	return fs
}

// fetched ends the fetches fs, of which those with a kind must be repeated. It reports
// whether s must be woken. After an error it calls the holder's StoreFailed instead,
// unless s or all the subscriptions have been closed.
func (s *Subscriber) fetched(fs []fetch, err error) (wake bool) {
	left := true
	s.mu.Lock()
	for _, f := range fs {
		left = left && f.sub.paused
		if f.sub.fetching = false; f.kind != fetchNothing && f.sub.pendingFetch == fetchNothing {
			f.sub.pendingFetch = f.kind
		}
	}
	left = left || s.closed
	wake = s.readyTail != nil && (err == nil || left) && s.markAwakeLocked()
	s.mu.Unlock()
	if err != nil && !left {
		s.holder.StoreFailed(err)
	}
	return wake
}
