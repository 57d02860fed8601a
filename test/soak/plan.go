//go:build linux

package main

import (
	"fmt"
	"math/rand/v2"
)

const (
	// publishers is how many publishers there are: every other one publishes by POST, the others
	// over MQTT.
	publishers = 8
	// closer is the publisher of the last retained messages.
	closer = publishers
)

// class is a kind of topic.
type class struct {
	topics []string
	// sharers is how many publishers publish to each topic of the class.
	sharers int
	// rate is the messages a second to all of its topics together; size is that of the largest, in
	// bytes.
	rate float64
	size int
	// retained is the share of retained messages.
	retained float64
}

// plan is the topics of a soak.
type plan struct {
	users  class // a topic for each subscriber
	groups class // a topic for some dozens of subscribers
	all    class // a topic for half of the subscribers
	heavy  class // topics with more bytes than the broker keeps for a stalled reader
	raced  class // topics whose retained message all publishers change all the time
}

func newPlan(subscribers int) *plan {
	names := func(format string, n int) (ts []string) {
		for i := range n {
			ts = append(ts, fmt.Sprintf(format, i))
		}
		return ts
	}
	groups := max(subscribers/50, 4)
	return &plan{
		users:  class{topics: names("user/%d", subscribers), sharers: 1, rate: float64(subscribers) / 40, size: 600, retained: 0.5},
		groups: class{topics: names("group/%d", groups), sharers: 3, rate: float64(groups) * 0.4, size: 1500, retained: 0.5},
		all:    class{topics: names("all/%d", 1), sharers: publishers, rate: 0.5, size: 300, retained: 0.2},
		heavy:  class{topics: names("heavy/%d", 4), sharers: 2, rate: 28, size: 32_000, retained: 0.1},
		raced:  class{topics: names("raced/%d", 2), sharers: publishers, rate: 100, size: 200, retained: 0.9},
	}
}

func (p *plan) classes() []*class { return []*class{&p.users, &p.groups, &p.all, &p.heavy, &p.raced} }

// topics returns the names of all topics.
func (p *plan) topics() (ts []string) {
	for _, c := range p.classes() {
		ts = append(ts, c.topics...)
	}
	return ts
}

// of returns the topics to which a publisher publishes.
func (c *class) of(publisher int) (ts []string) {
	for i, t := range c.topics {
		for k := range c.sharers {
			if (i+k*(publishers/c.sharers))%publishers == publisher {
				ts = append(ts, t)
			}
		}
	}
	return ts
}

// habits are the properties of a subscriber.
type habits struct {
	kind     kind
	topics   []string
	envelope bool // of streams
	token    bool // it has a token of its own rather than the administrator's
	churns   bool // it leaves sometimes, and connects again
	stalls   bool // it stops reading sometimes
	freezes  bool // it stops reading for longer than the broker allows
}

// habits returns the habits of subscriber i. One in fifty stalls, and one in five of these
// freezes; one in five of the others churns.
func (p *plan) habits(i int, r *rand.Rand) habits {
	h := habits{kind: [...]kind{durableStream, durableStream, plainStream, session, session}[i%5], envelope: r.IntN(2) == 0, token: r.IntN(2) == 0}
	if i%50 == 0 {
		h.kind = kind(i / 50 % int(kinds))
		h.stalls, h.freezes = true, i%250 == 0
		first := r.IntN(len(p.heavy.topics))
		h.topics = []string{p.heavy.topics[first], p.heavy.topics[(first+1)%len(p.heavy.topics)]}
		return h
	}
	h.churns = r.IntN(5) == 0
	h.topics = []string{p.users.topics[i]}
	if r.IntN(10) < 6 {
		first := r.IntN(len(p.groups.topics))
		for k := range 1 + r.IntN(3) {
			h.topics = append(h.topics, p.groups.topics[(first+k)%len(p.groups.topics)])
		}
	}
	if r.IntN(2) == 0 {
		h.topics = append(h.topics, p.all.topics[0])
	}
	if i%100 == 1 { // as those who stall
		h.topics = append(h.topics, p.heavy.topics[r.IntN(len(p.heavy.topics))])
	}
	if i%100 == 2 || i%100 == 3 {
		h.topics = append(h.topics, p.raced.topics[r.IntN(len(p.raced.topics))])
	}
	return h
}
