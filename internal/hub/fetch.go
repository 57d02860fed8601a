package hub

import (
	"context"
	"sync"

	"pubsub"
)

// maxConcurrentFetches is how many goroutines read the store for members.
const maxConcurrentFetches = 64

// fetches reads the store for members that could not take more when they subscribed, or
// whose log has forgotten messages that they missed. It bounds the number of goroutines
// that do so, because very many clients may begin to read at once.
type fetches struct {
	mu sync.Mutex
	// guarded by mu
	queue   []fetch
	running int
	ended   bool // no new reads begin

	goroutines sync.WaitGroup

	// immutable
	ctx    context.Context // of all reads
	cancel context.CancelFunc
}

func (q *fetches) init() { q.ctx, q.cancel = context.WithCancel(context.Background()) }

// fetch is a subscription for which the store must be read, and the reason.
type fetch struct {
	sub  *Subscription
	kind fetchKind
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

// run handles queued fetches until none is left.
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

// end cancels the pending reads and waits for them.
func (q *fetches) end() {
	q.mu.Lock()
	q.ended, q.queue = true, nil
	q.mu.Unlock()
	q.cancel()
	q.goroutines.Wait()
}

// do reads the store and lets the member continue. It also reads for the member's next
// subscriptions, if they are late as well, until the messages fill one piece.
func (f fetch) do(h *Hub) {
	m := f.sub.subscriber
	fs := []fetch{f}
	var err error
	for done, size := 0, 0; done < len(fs) && size < maxPiece; {
		var found []fetchResult
		if found, err = readAll(h, fs[done:]); err != nil {
			break
		}
		for i := 0; i < len(found) && size < maxPiece; i++ { // the remaining ones are read again later
			if p := found[i].msg; p != nil {
				size += p.MaxEncodedSize
			}
			fs[done].apply(&found[i], &h.backlog)
			done++
		}
		if size < maxPiece {
			fs = m.appendPendingFetches(fs, h.opts.FetchConcurrency)
		}
	}
	if m.fetched(fs, err) {
		m.wake()
	}
}

// fetchResult is the result of reading the store for a subscription.
type fetchResult struct {
	msg    *pubsub.PreparedMessage // nil if there is none
	forgotten pubsub.Version          // the log's newest, before the store was asked
	err       error
}

// readAll reads the store for all of fs at the same time.
func readAll(h *Hub, fs []fetch) ([]fetchResult, error) {
	all := make([]fetchResult, len(fs))
	if len(fs) == 1 {
		fs[0].read(h, &all[0])
		return all, all[0].err
	}
	var wg sync.WaitGroup
	for i := range fs {
		wg.Go(func() { fs[i].read(h, &all[i]) })
	}
	wg.Wait()
	for i := range all {
		if all[i].err != nil {
			return nil, all[i].err
		}
	}
	return all, nil
}

func (f fetch) read(h *Hub, to *fetchResult) {
	s := f.sub
	s.log.mu.Lock()
	seen := s.seen
	to.forgotten = s.log.newestVersion
	s.log.mu.Unlock()
	if f.kind == fetchRetained {
		seen = pubsub.Version{}
	}
	ctx, cancel := context.WithTimeout(h.fetches.ctx, h.opts.SubscribeTimeout)
	defer cancel()
	to.msg, _, to.err = s.Last(ctx, seen)
}

// apply passes the result to the subscription. If the result is out of date, f must be
// done again.
func (f *fetch) apply(found *fetchResult, b *backlog) {
	s, late := f.sub, f.kind
	f.kind = fetchNothing
	switch {
	case late == fetchForgotten:
		if !s.log.replaceForgotten(s, found.msg, found.forgotten, b) {
			f.kind = fetchForgotten
		}
	case found.msg != nil:
		s.log.resume(s, false, found.msg, late == fetchNewer, pubsub.Version{}, b)
	}
}

// appendPendingFetches appends to fs, the first of the ready subscriptions, up to n of those that
// follow, as long as they are late as well.
func (m *Subscriber) appendPendingFetches(fs []fetch, n int) []fetch {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.readyTail == nil {
		return fs
	}
	for s := m.readyTail.next; n > 0; s = s.next {
		switch {
		case s.fetching || s.paused:
		case s.pendingFetch == fetchNothing:
			return fs
		default:
			fs = append(fs, fetch{s, s.pendingFetch})
			s.pendingFetch, s.fetching = fetchNothing, true
			n--
		}
		if s == m.readyTail {
			break
		}
	}
	return fs
}

// fetched records that the store was read for fs, and reports whether m must be woken.
// After an error its holder ends it.
func (m *Subscriber) fetched(fs []fetch, err error) (wake bool) {
	left := true
	m.mu.Lock()
	for _, f := range fs {
		left = left && f.sub.paused
		if f.sub.fetching = false; f.kind != fetchNothing && f.sub.pendingFetch == fetchNothing {
			f.sub.pendingFetch = f.kind
		}
	}
	left = left || m.closed
	wake = m.readyTail != nil && (err == nil || left) && m.markAwakeLocked()
	m.mu.Unlock()
	if err != nil && !left {
		m.holder.StoreFailed(err)
	}
	return wake
}
