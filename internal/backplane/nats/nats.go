// Package nats is the backplane of a cluster: any number of identical nodes on an existing NATS
// cluster form one broker.
//
// Retained messages are in a JetStream stream with one subject for each topic, which keeps the
// last message of each. JetStream itself announces each message that it has stored, on a subject
// to which only the nodes with subscribers of the topic subscribe. Plain messages are sent to
// the same subject. Announcements are fast and can be lost; the stream loses nothing. A resync
// searches the stream for messages whose announcement a node has missed. Signing keys are in a
// key-value bucket.
//
// docs/nats.md lists the streams, subjects and records, and the mechanism and the test for each
// failure.
package nats

import (
	"sync"
	"time"

	"pubsub"
)

// Events report what a backplane does, for logs and metrics. Each may be nil. Calls may overlap
// and must neither block nor call the backplane. None receives a secret.
type Events struct {
	// Waiting reports, at most once a second, why the backplane does not work yet after Open.
	Waiting func(error)
	// Connected follows each connection to NATS, with the server's address.
	Connected func(server string)
	// Disconnected follows the loss of the connection.
	Disconnected func(error)
	// Resynced follows a resync, which has delivered n missed messages.
	Resynced func(cause string, n int)
	// GenerationChanged follows a change of the stream's generation: the stream was recreated
	// or restored, or has lost messages.
	GenerationChanged func(from, to uint64)
	// StreamPurged reports that the stream of retained messages was purged.
	StreamPurged func(stream string)
	// StreamCreated reports that this node has created a stream.
	StreamCreated func(stream string)
	// Fault reports a fault of a stream when it is noticed, and once a minute while it lasts.
	// Recovered reports its end.
	Fault     func(*Fault)
	Recovered func(stream string, lasted time.Duration)
	// Unreadable reports, once, a record in NATS that this release cannot read: a record of a
	// later release, or one that no release has written. Kind is key, message or generation,
	// and name the id of the key or the topic of the message. All other records work.
	Unreadable func(kind, name string, err error)
	// KeysReplaced reports that the bucket of signing keys was recreated, restored or purged.
	// All keys are read again.
	KeysReplaced func(stream string)
	// Error reports an error from which the backplane recovers. The event names it in a few
	// constant words. Error may be called for every message.
	Error func(event string, err error)
}

// Stats are figures of a [Backplane].
type Stats struct {
	Connected      bool
	Subscribed     int    // topics subscribed to in NATS, including those that linger
	Nodes          int    // nodes that this node knows, including itself
	Reconnects     uint64 // connections after the first
	Resyncs        uint64 // completed searches for missed messages
	Missed         uint64 // missed messages that a resync delivered
	SlowConsumer   uint64 // times that messages were dropped because this node was slow
	PublishRetries uint64 // retained messages sent again, for lack of an acknowledgement
	Faults         int    // streams that are missing or unusable, 0 to 2
}

// Backplane is a [pubsub.Backplane] over NATS. [Open] makes one.
type Backplane struct {
	*store
	*keyring
	*bus

	// immutable
	client *client
	stream *stream

	running   sync.WaitGroup // the goroutines of Open
	closeOnce sync.Once
}

var _ pubsub.Backplane = (*Backplane)(nil)

// Open returns a backplane that connects to NATS and creates missing streams. Calls wait until
// that is done, within their bounds. The error of Open is an [ErrOptions]. A problem in NATS that
// only an operator can solve, such as unusable settings of a stream, is the error of Run and of
// all other calls.
func Open(o Options) (*Backplane, error) {
	setDefaults(&o)
	options, err := connectOptions(&o)
	if err != nil {
		return nil, err
	}
	c := newClient(o)
	s := &stream{client: c}
	r := newReader(s)
	i := newInterest(s)
	g := newGuard(s)
	b := &Backplane{
		client:  c,
		stream:  s,
		store:   newStore(s, r),
		keyring: &keyring{client: c, replaced: g.keysReplaced},
		bus:     newBus(s, i, r),
	}
	if err := c.connect(options); err != nil {
		return nil, err
	}
	for _, run := range []func(){s.setUp, g.run, r.run, i.run, b.store.puts.run} {
		b.running.Go(run)
	}
	return b, nil
}

// Stats returns the present figures. It never blocks.
func (b *Backplane) Stats() Stats {
	c, r := b.client, b.bus.resyncer
	return Stats{
		Connected:      c.isUp(),
		Subscribed:     int(b.bus.interest.count.Load()),
		Nodes:          b.bus.nodes.count(),
		Reconnects:     c.reconnects.Load(),
		Resyncs:        r.resyncs.Load(),
		Missed:         r.missed.Load(),
		SlowConsumer:   c.slow.Load(),
		PublishRetries: b.store.puts.retries.Load(),
		Faults:         c.faults.count(),
	}
}

// Close waits for each retained message whose Put has begun, within the message's bound, and
// ends everything that Open has started. Pending and later calls return [pubsub.ErrClosed].
func (b *Backplane) Close() error {
	b.closeOnce.Do(func() {
		b.store.puts.refuse()
		b.client.end()
		b.store.puts.wait()
		b.bus.stopDelivery()
		b.client.nc.Close()
		close(b.client.closed)
	})
	b.running.Wait()
	return nil
}
