// Package hub keeps which member of this node wants which topic, and hands each
// message to them.
//
// A topic has a log, a subscriber has a cursor. What is published to a topic is
// appended to its log, once for every shard that has members of the topic; each
// member reads from its own position to the end, in one piece. A log is empty
// while all have read it. A member that does not read is a cursor that stands
// still: it owns no queue and slows nobody.
//
// The hub knows neither encodings nor sockets. A [Holder] holds a member's
// connection; the hub tells it that there is something to read, and the holder
// calls [Subscriber.Read].
package hub

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"pubsub"
)

// Options are the hub's settings. Zero or less in any field but Backplane means
// its default.
type Options struct {
	// Backplane is asked for the topics that have members, and read for what is
	// retained when a member joins. Required.
	Backplane Backplane
	// Shards is the number of goroutines that wake members: 1 to 256, by default
	// GOMAXPROCS.
	Shards int
	// Outboxes are what each shard gives to those that it serves; Shards is then
	// how many there are. Default none.
	Outboxes []Outbox
	// SubscriberBuffer is how many bytes of one topic may be unread by a member
	// before it loses the oldest. Default 256 KiB.
	SubscriberBuffer int
	// BacklogMemory bounds the memory of all messages that members have not read,
	// encodings included, in bytes. Default 256 MiB.
	BacklogMemory int64
	// MaxEncodedSize returns an upper bound of the length of a message's longest encoding. The
	// default, which knows no encoding, is the message's cost against SubscriberBuffer.
	MaxEncodedSize func(*pubsub.Message) int
	// SubscribeTimeout bounds how long a member waits for the backplane when it joins
	// a topic, and when what that retains is read. Default 5 s.
	SubscribeTimeout time.Duration
	// FetchConcurrency is how many topics' retained messages are read concurrently for a
	// member. Default 1.
	FetchConcurrency int
}

// Backplane is the part of [pubsub.Backplane] that the hub uses. Unsubscribe is called
// with a lock held that [Hub.Deliver] takes: it must not wait for a delivery.
type Backplane interface {
	Subscribe(ctx context.Context, t pubsub.Topic) error
	Unsubscribe(t pubsub.Topic)
	Last(ctx context.Context, t pubsub.Topic, after pubsub.Version) (pubsub.Message, bool, error)
}

func (o *Options) setDefaults() {
	if len(o.Outboxes) > 0 {
		o.Shards = len(o.Outboxes)
	}
	if o.Shards <= 0 {
		o.Shards = runtime.GOMAXPROCS(0)
	}
	o.Shards = min(o.Shards, 256)
	if o.SubscriberBuffer <= 0 {
		o.SubscriberBuffer = 256 << 10
	}
	if o.BacklogMemory <= 0 {
		o.BacklogMemory = 256 << 20
	}
	if o.FetchConcurrency <= 0 {
		o.FetchConcurrency = 1
	}
	if o.MaxEncodedSize == nil {
		o.MaxEncodedSize = func(m *pubsub.Message) int { return len(m.Data) + len(m.Properties) + entryOverhead }
	}
	if o.SubscribeTimeout <= 0 {
		o.SubscribeTimeout = 5 * time.Second
	}
}

// Hub is the fan-out of one node. [New] makes it; [Hub.Run] must be running for
// members to be woken.
type Hub struct {
	// immutable
	opts   Options
	shards []*shard

	index   index
	backlog backlog
	recent  recent
	fetches fetches
	counts  counts
	next    atomic.Uint32 // member after member, round the shards
}

// New returns a hub that is not running yet.
func New(o Options) *Hub {
	o.setDefaults()
	h := &Hub{opts: o}
	h.index.init()
	h.fetches.init()
	h.backlog.limit = o.BacklogMemory
	for i := range o.Shards {
		var out Outbox
		if len(o.Outboxes) > 0 {
			out = o.Outboxes[i]
		}
		h.shards = append(h.shards, newShard(h, out))
	}
	return h
}

// Run wakes members until ctx is done; it returns when all it started has ended.
// It is called once.
func (h *Hub) Run(ctx context.Context) {
	var wg sync.WaitGroup
	for _, s := range h.shards {
		wg.Go(func() { s.run(ctx) })
	}
	wg.Wait()
	h.fetches.end()
}

// Deliver hands p to the members of its topic on this node. It never blocks for
// long and may be called by many goroutines; what one of them delivers keeps its
// order. A retained message older than one that was delivered before is left
// out.
func (h *Hub) Deliver(p *pubsub.PreparedMessage) {
	h.index.deliver(p, h)
	h.enforceBacklogLimit()
}

// prepare makes p, which must not be shared yet, a parcel of this node.
func (h *Hub) prepare(p *pubsub.PreparedMessage) *pubsub.PreparedMessage {
	p.MaxEncodedSize = h.opts.MaxEncodedSize(&p.Message)
	p.SetByteCounter(&h.backlog.bytes)
	return p
}

// Stats are the hub's gauges and counters.
type Stats struct {
	Subscribers   int64 // now
	Subscriptions int64 // now
	BacklogBytes  int64 // of memory now, for messages that members have not read
	Delivered     uint64
	Dropped       uint64 // not retained, not read in time, lost to a member
	Expired       uint64 // not delivered to a member because its life was over
}

// counts are changed by all members.
type counts struct {
	subscribers, subscriptions      atomic.Int64
	delivered, dropped, expired atomic.Uint64
}

func (h *Hub) count(ds []Delivery, expired uint64) {
	var delivered, dropped uint64
	for i := range ds {
		dropped += ds[i].Dropped
		if ds[i].Message != nil {
			delivered++
		}
	}
	if delivered > 0 {
		h.counts.delivered.Add(delivered)
	}
	if dropped > 0 {
		h.counts.dropped.Add(dropped)
	}
	if expired > 0 {
		h.counts.expired.Add(expired)
	}
}

// Stats returns the gauges and counters of the moment.
func (h *Hub) Stats() Stats {
	return Stats{
		Subscribers:   h.counts.subscribers.Load(),
		Subscriptions: h.counts.subscriptions.Load(),
		BacklogBytes:  h.backlog.bytes.Load(),
		Delivered:     h.counts.delivered.Load(),
		Dropped:       h.counts.dropped.Load(),
		Expired:       h.counts.expired.Load(),
	}
}
