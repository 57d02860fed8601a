package nats

import (
	"slices"
	"sync"
	"time"

	"pubsub"
)

// settleTime is how long a new subscription or connection takes, at most, to be known to all
// NATS servers. Until then a server may announce a message and not send it to this node.
const settleTime = 2 * time.Second

// The causes of a task.
const (
	causeInterval     = "interval"
	causeConnection   = "connection"
	causeSettled      = "connection settled"
	causeSubscription = "subscription settled"
	causeGap          = "gap"
	causeSlowConsumer = "slow consumer"
	causeGeneration   = "generation changed"
	causeMissing      = "stream missing"
	causeReplaced     = "stream replaced"
	causeRecovered    = "stream recovered"
	causeShorter      = "stream shorter than before"
	causeRetry        = "retry"
)

// task is a read of the stream of retained messages, for messages that this node has missed.
type task struct {
	at    time.Time // when it is due
	cause string
	// topics, if not nil, are the topics to read. The task is a resync otherwise, which finds
	// every topic that has changed since the last one.
	topics []pubsub.Topic
	// all makes a resync read every subscribed topic, changed or not.
	all bool
}

// schedule is the queue of all reads that look for missed messages, for any cause.
type schedule struct {
	added chan struct{} // one slot: there may be an earlier task than before

	mu    sync.Mutex
	tasks []task // guarded by mu: the first one first
}

func newSchedule() *schedule { return &schedule{added: make(chan struct{}, 1)} }

// request schedules a resync for now. If one with the same cause is due already, that one keeps
// its turn, so that a cause that recurs all the time does not postpone it for ever.
func (q *schedule) request(cause string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Now()
	if i := q.resync(cause); i >= 0 && !q.tasks[i].at.After(now) {
		return
	}
	q.insert(task{at: now, cause: cause})
}

// add schedules t. A resync replaces the waiting one with the same cause.
func (q *schedule) add(t task) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.insert(t)
}

// insert is add; mu is held.
func (q *schedule) insert(t task) {
	if t.topics == nil {
		if i := q.resync(t.cause); i >= 0 {
			t.all = t.all || q.tasks[i].all
			q.tasks = slices.Delete(q.tasks, i, i+1)
		}
	}
	i, _ := slices.BinarySearchFunc(q.tasks, t.at, func(o task, at time.Time) int {
		if o.at.After(at) {
			return 1
		}
		return -1 // t comes after tasks of the same time
	})
	q.tasks = slices.Insert(q.tasks, i, t)
	notify(q.added)
}

// resync returns the index of the resync with a cause, or -1; mu must be held.
func (q *schedule) resync(cause string) int {
	return slices.IndexFunc(q.tasks, func(t task) bool { return t.topics == nil && t.cause == cause })
}

// removeRetry removes the retry of a resync after another one has succeeded. A retry that reads
// every subscribed topic remains, unless that one has done so, too.
func (q *schedule) removeRetry(all bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if i := q.resync(causeRetry); i >= 0 && (all || !q.tasks[i].all) {
		q.tasks = slices.Delete(q.tasks, i, i+1)
	}
}

// take removes and returns the next task if it is due. Otherwise it returns the time until then.
// Reads of topics that are due one after the other become one task.
func (q *schedule) take(now time.Time) (t task, ok bool, wait time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.tasks) == 0 {
		return task{}, false, time.Hour
	}
	if wait := q.tasks[0].at.Sub(now); wait > 0 {
		return task{}, false, wait
	}
	t, n := q.tasks[0], 1
	if t.topics != nil {
		for n < len(q.tasks) && q.tasks[n].topics != nil && !q.tasks[n].at.After(now) {
			t.topics = append(t.topics, q.tasks[n].topics...)
			n++
		}
	}
	q.tasks = slices.Delete(q.tasks, 0, n)
	return t, true, 0
}
