package hub

// Holder owns the connection of a subscriber. Its methods must not block.
type Holder interface {
	// Wake is called when the subscriber wakes up. It must make one goroutine call
	// Subscriber.Read until Read reports asleep. Wake itself must not call Read: its
	// callers include the shard's goroutine and the callers of Resume and Notify.
	Wake()
	// StoreFailed reports that the store cannot be read for the subscriber, and that a retry
	// is pointless. The holder must end the connection, because a message that was promised
	// is missing.
	StoreFailed(err error)
	// DeadlineReached reports that the subscriber's deadline has passed. It is called
	// whether the subscriber is asleep or awake.
	DeadlineReached()
}

// ShardHolder is a Holder whose subscriber is served by the goroutine of its shard, one
// subscriber after another. Its Wake is never called.
type ShardHolder interface {
	Holder
	// Serve calls Subscriber.Read until Read reports asleep. If it has to stop before
	// that, for example because the socket is full, it must call Subscriber.Schedule
	// once it can go on. It may write through the shard's outbox, which is nil if
	// there is none.
	Serve(Outbox)
}

// Outbox collects the writes of a shard's subscribers, so that one call sends them all.
// Only the shard's goroutine uses it.
type Outbox interface {
	// Flush sends the collected writes. The shard calls it after each round of serving
	// subscribers.
	Flush()
}
