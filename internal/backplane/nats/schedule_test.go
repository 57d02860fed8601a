package nats

import (
	"slices"
	"testing"
	"time"

	"pubsub"
)

// Tasks are taken in the order of their times, a resync replaces the waiting one with its cause,
// and reads of topics that are due together become one.
func TestSchedule(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	at := func(s int) time.Time { return now.Add(time.Duration(s) * time.Second) }
	q := newSchedule()
	if _, ok, _ := q.take(now); ok {
		t.Error("an empty schedule has a task")
	}
	q.add(task{at: at(2), cause: causeRetry, all: true})
	q.add(task{at: at(0), cause: causeSubscription, topics: []pubsub.Topic{"a"}})
	q.add(task{at: at(0), cause: causeSubscription, topics: []pubsub.Topic{"b", "c"}})
	q.add(task{at: at(0), cause: causeGap})
	q.add(task{at: at(0), cause: causeGap})
	q.add(task{at: at(1), cause: causeSubscription, topics: []pubsub.Topic{"d"}})
	q.add(task{at: at(3), cause: causeRetry}) // replaces the first, and still reads all
	type taken struct {
		cause  string
		topics []pubsub.Topic
		all    bool
	}
	for s, want := range [][]taken{
		0: {{causeSubscription, []pubsub.Topic{"a", "b", "c"}, false}, {causeGap, nil, false}},
		1: {{causeSubscription, []pubsub.Topic{"d"}, false}},
		2: nil,
		3: {{causeRetry, nil, true}},
	} {
		var got []taken
		for {
			task, ok, wait := q.take(at(s))
			if !ok {
				if s < 3 && len(q.tasks) > 0 && wait != q.tasks[0].at.Sub(at(s)) {
					t.Errorf("after %d s: wait for %v", s, wait)
				}
				break
			}
			got = append(got, taken{task.cause, task.topics, task.all})
		}
		if !slices.EqualFunc(got, want, func(a, b taken) bool {
			return a.cause == b.cause && slices.Equal(a.topics, b.topics) && a.all == b.all
		}) {
			t.Errorf("after %d s: took %+v, want %+v", s, got, want)
		}
	}
}

// A resync that is requested again and again keeps its turn among other tasks.
func TestRequestKeepsItsTurn(t *testing.T) {
	q := newSchedule()
	q.request(causeGap)
	q.add(task{at: time.Now(), cause: causeSubscription, topics: []pubsub.Topic{"t"}})
	q.request(causeGap)
	for _, want := range []string{causeGap, causeSubscription} {
		if task, ok, _ := q.take(time.Now()); !ok || task.cause != want {
			t.Errorf("took %q, %v, want %q", task.cause, ok, want)
		}
	}
	if task, ok, _ := q.take(time.Now()); ok {
		t.Errorf("took %q, want nothing", task.cause)
	}
}

// A resync removes a waiting retry only if it has read as many topics.
func TestRemoveRetry(t *testing.T) {
	for _, test := range []struct{ retry, done, remains bool }{
		{retry: false, done: false, remains: false},
		{retry: false, done: true, remains: false},
		{retry: true, done: false, remains: true},
		{retry: true, done: true, remains: false},
	} {
		q := newSchedule()
		q.add(task{at: time.Now(), cause: causeRetry, all: test.retry})
		q.removeRetry(test.done)
		if _, ok, _ := q.take(time.Now()); ok != test.remains {
			t.Errorf("%+v: a retry remains: %v", test, ok)
		}
	}
}

// A resync of every topic that meets a fault is repeated: the guard requests only a resync of the
// changed topics when the fault is over.
func TestFaultKeepsResyncOfAllTopics(t *testing.T) {
	s := &stream{client: newClient(Options{})}
	c := s.client
	c.faults.set(s.name(), &Fault{Err: ErrNoJetStream})
	r := newResyncer(s, newReader(s), newInterest(s), nil)
	for _, all := range []bool{false, true} {
		r.perform(t.Context(), task{cause: causeGeneration, all: all})
		if task, ok, _ := c.resyncs.take(time.Now().Add(retryAfter)); ok != all || task.all != all {
			t.Errorf("all %v: a resync waits: %v, of every topic: %v", all, ok, task.all)
		}
	}
}
