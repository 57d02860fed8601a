// Package hub delivers messages to the subscribers of one node.
//
// Each topic has a log, and each subscription has a cursor in it. [Hub.Deliver] appends a
// message once to every log of its topic: there is one log for each shard that has
// subscribers of the topic. A subscriber reads from its cursor to the end of the log, many
// messages at a time. A log is empty when all of its subscriptions have read everything. A
// slow subscriber is a cursor that does not move: it has no queue of its own and does not
// slow down other subscribers.
//
// The hub knows neither encodings nor sockets. A [Holder] owns the subscriber's
// connection. The hub calls [Holder.Wake] when there is something to read, and the holder
// calls [Subscriber.Read].
//
// # Subscribers
//
// A [Subscriber] is asleep or awake. It begins asleep, and wakes up when one of its
// subscriptions becomes ready or when [Subscriber.Notify] is called. The hub then calls
// Wake, once. While the subscriber is awake, one goroutine must call Read until Read
// reports that the subscriber is asleep again. A holder that is a [ShardHolder] is
// different: the goroutine of its shard calls [ShardHolder.Serve] instead of Wake.
//
// # Subscriptions
//
// [Subscriber.Subscribe] returns a paused [Subscription]: new messages are kept for it,
// but Read passes over it. The holder can now read the topic's retained message with
// [Subscription.Last] and pass it to [Subscription.Resume] without missing a message in
// between. A resumed subscription is in one of three states:
//
//   - Idle: it has read everything.
//   - Ready: it has something unread, or has just been resumed. Read takes the ready
//     subscriptions in turn and reads one bounded piece at a time.
//   - Fetching: the hub reads the retained message of its topic from the store. The reason
//     is either a call of [Subscription.ResumeAndFetch], or that the log has forgotten a
//     retained message to save memory. Read returns nothing meanwhile, so that the
//     messages of all subscriptions come in order.
//
// [Subscriber.Unsubscribe] and [Subscriber.Close] end a subscription in any state.
//
// # Losses
//
// A log keeps at most [Options.SubscriberBuffer] bytes, and all logs together at most
// [Options.BacklogMemory]. Beyond that they are cut: the oldest messages go first. A
// subscriber that had not read them learns from [Delivery.Dropped] how many plain messages
// it has lost, and it always receives the topic's newest retained message.
//
// # Concurrency
//
// All methods may be called concurrently, with three exceptions. Read must only be called
// while the subscriber is awake, by one goroutine at a time. [Subscriber.SetSender] must
// precede the first Subscribe. [Hub.Run] must be called once. The methods of a holder are
// called by several goroutines and must not block.
package hub

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"pubsub"
)

// Options are the hub's settings. Zero or less in any field but Backplane means the
// default.
type Options struct {
	// Backplane subscribes to topics and reads their retained messages. Required.
	Backplane Backplane
	// Shards is the number of goroutines that wake subscribers: 1 to 256. The default is
	// GOMAXPROCS.
	Shards int
	// Outboxes has one Outbox for each shard, and its length replaces Shards. The default
	// is to have none.
	Outboxes []Outbox
	// SubscriberBuffer is how many bytes of a topic a subscriber may leave unread before
	// it loses the oldest messages. The default is 256 KiB.
	SubscriberBuffer int
	// BacklogMemory bounds the memory of all unread messages, encodings included, in
	// bytes. The default is 256 MiB.
	BacklogMemory int64
	// MaxEncodedSize returns an upper bound for the length of the longest encoding of a
	// message. By default it returns what the message counts against SubscriberBuffer.
	MaxEncodedSize func(*pubsub.Message) int
	// SubscribeTimeout bounds each call of Backplane.Subscribe, and of Backplane.Last for
	// a subscription that is being fetched. The default is 5 s.
	SubscribeTimeout time.Duration
	// FetchConcurrency is how many retained messages the hub reads at the same time for a
	// subscriber. The default is 1.
	FetchConcurrency int
	// FetchFailed, if not nil, is called when the store was unavailable for a subscriber.
	// The hub reads it again after a second; meanwhile the subscriber gets nothing. Calls
	// may overlap.
	FetchFailed func(error)
}

// Backplane is the part of [pubsub.Backplane] that the hub uses. Unsubscribe is called
// with a lock held that [Hub.Deliver] needs, so it must not wait for a delivery.
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
	if o.FetchFailed == nil {
		o.FetchFailed = func(error) {}
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

// Hub delivers the messages of one node. [New] makes it. It wakes subscribers while
// [Hub.Run] is running.
type Hub struct {
	// immutable
	opts   Options
	shards []*shard

	index   index
	backlog backlog
	recent  recent
	fetches fetches
	counts  counts
	next    atomic.Uint32 // number of subscribers so far, which assigns shards in turn
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

// Run wakes subscribers until ctx is done. It returns when all goroutines of the hub have
// ended. It must be called once.
func (h *Hub) Run(ctx context.Context) {
	var wg sync.WaitGroup
	for _, sh := range h.shards {
		wg.Go(func() { sh.run(ctx) })
	}
	wg.Wait()
	h.fetches.end()
}

// Deliver passes pm to the subscribers of its topic on this node. Messages that the same
// goroutine delivers keep their order. Deliver omits a retained message if it has already
// delivered a newer one. It does not wait for subscribers.
func (h *Hub) Deliver(pm *pubsub.PreparedMessage) {
	h.index.deliver(pm, h)
	h.enforceBacklogLimit()
}

// prepare sets the fields of pm that the hub relies on. pm must not be shared yet.
func (h *Hub) prepare(pm *pubsub.PreparedMessage) *pubsub.PreparedMessage {
	pm.MaxEncodedSize = h.opts.MaxEncodedSize(&pm.Message)
	pm.SetByteCounter(&h.backlog.bytes)
	return pm
}

// Stats are the hub's gauges and counters.
type Stats struct {
	Subscribers   int64  // gauge
	Subscriptions int64  // gauge
	BacklogBytes  int64  // gauge: memory of unread messages
	Delivered     uint64 // messages returned by Read
	Dropped       uint64 // plain messages that a subscriber lost because it read too slowly
	Expired       uint64 // messages that expired before a subscriber read them
}

// counts are shared by all subscribers.
type counts struct {
	subscribers, subscriptions  atomic.Int64
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

// Stats returns the current gauges and counters.
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
