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
	q.add(task{at: at(9), cause: causeInterval})
	q.remove(causeInterval)
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
		9: nil,
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
