package nats

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"pubsub"
	"pubsub/internal/backplane/nats/layout"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// client is the connection to NATS, which all parts of a backplane share. It knows whether it
// is connected and whether the broker has been set up in NATS, and bounds the calls.
type client struct {
	// immutable
	o      Options
	names  layout.Names
	node   uint64 // the random number of this node
	nc     *natsgo.Conn
	js     jetstream.JetStream
	life   context.Context // done when Close begins
	end    context.CancelFunc
	closed chan struct{} // closed after the connection
	ready  chan struct{} // closed when setUp has ended, successfully or for good

	connections *listeners // notified of each new connection
	faults      *faults
	resyncs     *schedule
	unreadable  *unreadable

	reconnects, slow atomic.Uint64
	lastWaiting      atomic.Int64 // Unix seconds of the last Events.Waiting

	mu       sync.Mutex
	failed   error              // guarded by mu: why setUp has failed for good
	up       chan struct{}      // guarded by mu: closed while there is a connection
	conn     context.Context    // guarded by mu: the present connection, done when it is lost
	connLost context.CancelFunc // guarded by mu: ends conn
}

func newClient(o Options) *client {
	c := &client{
		o:      o,
		names:  layout.Names{Prefix: o.Prefix},
		node:   randomNumber(),
		closed: make(chan struct{}),
		ready:  make(chan struct{}),
		up:     make(chan struct{}),

		connections: newListeners(),
		faults:      newFaults(),
		resyncs:     newSchedule(),
		unreadable:  newUnreadable(o.Events.Unreadable),
	}
	c.life, c.end = context.WithCancel(context.Background())
	c.conn, c.connLost = context.WithCancel(context.Background())
	return c
}

// randomNumber returns a random number other than 0.
func randomNumber() uint64 {
	for {
		var b [8]byte
		rand.Read(b[:]) // never fails
		if n := binary.BigEndian.Uint64(b[:]); n != 0 {
			return n
		}
	}
}

// connect starts to connect, and retries until Close.
func (c *client) connect(options []natsgo.Option) error {
	connected := func(nc *natsgo.Conn) {
		c.connected(nc.ConnectedUrlRedacted())
		// An unusable server makes setUp fail. Afterwards it is only reported.
		if err := layout.CheckServer(nc.ConnectedServerVersion(), nc.MaxPayload(), c.o.MaxMessageSize); err != nil && c.isReady() {
			c.report("NATS server unusable", err)
		}
	}
	options = append(options,
		natsgo.ConnectHandler(connected),
		natsgo.ReconnectHandler(func(nc *natsgo.Conn) {
			c.reconnects.Add(1)
			connected(nc)
			if c.faults.count() > 0 {
				c.faults.suspect() // a silent stream may answer now
			}
		}),
		natsgo.DisconnectErrHandler(func(_ *natsgo.Conn, err error) { c.disconnected(err) }),
		natsgo.ReconnectErrHandler(func(_ *natsgo.Conn, err error) { c.reportWaiting(fmt.Errorf("cannot connect to NATS: %w", err)) }),
		natsgo.ErrorHandler(func(_ *natsgo.Conn, sub *natsgo.Subscription, err error) { c.asyncError(sub, err) }),
	)
	nc, err := natsgo.Connect(strings.Join(c.o.URLs, ","), options...)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrOptions, err)
	}
	c.nc = nc
	c.js, err = jetstream.New(nc)
	return err
}

// connected and disconnected are called one at a time.
func (c *client) connected(server string) {
	c.mu.Lock()
	close(c.up)
	c.conn, c.connLost = context.WithCancel(context.Background())
	c.mu.Unlock()
	c.connections.notify()
	if c.o.Events.Connected != nil {
		c.o.Events.Connected(server)
	}
}

func (c *client) disconnected(err error) {
	c.mu.Lock()
	c.connLost()
	if isClosed(c.up) {
		c.up = make(chan struct{})
	}
	c.mu.Unlock()
	if c.o.Events.Disconnected != nil && c.life.Err() == nil {
		c.o.Events.Disconnected(err)
	}
}

// asyncError handles an error that the library reports outside of any call.
func (c *client) asyncError(sub *natsgo.Subscription, err error) {
	if errors.Is(err, natsgo.ErrConsumerNotActive) {
		return // the consumer of a key watch is silent, and the library replaces it
	}
	event := "NATS client failed"
	if errors.Is(err, natsgo.ErrSlowConsumer) {
		c.slow.Add(1)
		c.resyncs.request(causeSlowConsumer)
		event = "slow consumer"
	}
	if sub != nil {
		err = fmt.Errorf("subscription to %s: %w", sub.Subject, err)
	}
	if c.life.Err() == nil {
		c.report(event, err)
	}
}

// isUp reports whether there is a connection. The library would block the question while it
// connects.
func (c *client) isUp() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return isClosed(c.up)
}

// connection returns a context that identifies the present connection, or the last one, and is
// done when that is lost.
func (c *client) connection() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.conn
}

// isReady reports whether setUp has ended.
func (c *client) isReady() bool { return isClosed(c.ready) }

// failure returns why setUp has failed for good, or nil.
func (c *client) failure() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.failed
}

// report calls Events.Error.
func (c *client) report(event string, err error) {
	if c.o.Events.Error != nil {
		c.o.Events.Error(event, err)
	}
}

// reportWaiting calls Events.Waiting, at most once a second.
func (c *client) reportWaiting(err error) {
	if c.o.Events.Waiting != nil && oncePerSecond(&c.lastWaiting) {
		c.o.Events.Waiting(err)
	}
}

// oncePerSecond returns true once in each second. last is the second of the last time.
func oncePerSecond(last *atomic.Int64) bool {
	now := time.Now().Unix()
	before := last.Load()
	return before != now && last.CompareAndSwap(before, now)
}

// unreadable reports unreadable records, each of them once.
type unreadable struct {
	event func(kind, name string, err error) // immutable; may be nil

	mu       sync.Mutex
	reported map[unreadableRecord]bool // guarded by mu
}

type unreadableRecord struct {
	kind, name string
	seq        uint64
}

// maxUnreadable is how many reported records are remembered. If there are more, some are
// reported again.
const maxUnreadable = 4096

func newUnreadable(event func(kind, name string, err error)) *unreadable {
	return &unreadable{event: event, reported: map[unreadableRecord]bool{}}
}

// report calls Events.Unreadable, unless it has reported the record before.
func (u *unreadable) report(kind, name string, seq uint64, err error) {
	record := unreadableRecord{kind, name, seq}
	u.mu.Lock()
	known := u.reported[record]
	if !known {
		if len(u.reported) >= maxUnreadable {
			clear(u.reported)
		}
		u.reported[record] = true
	}
	u.mu.Unlock()
	if !known && u.event != nil {
		u.event(kind, pubsub.Printable(name), err)
	}
}
