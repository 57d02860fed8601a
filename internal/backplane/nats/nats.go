// Package nats is the backplane of a cluster: any number of identical nodes on an
// existing NATS cluster are one broker.
//
// Retained messages are in a JetStream stream that has one subject for each topic
// and keeps one message of each. JetStream itself announces what it has stored, on
// a subject to which just the nodes subscribe that want the topic; a message that
// is not retained is sent to the same subject. Announcements are quick and may get
// lost, the stream is slow and does not lose: a sweep of the stream finds what was
// missed. Signing keys are in a key-value bucket.
package nats

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"pubsub"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Options are the settings of a [Backplane]. Only URLs must be set.
type Options struct {
	// URLs are the addresses of NATS servers, such as nats://host:4222 or
	// tls://host:4222. The others of their cluster are found by themselves.
	URLs []string
	// CredsFile is a file with a user's JWT and seed, NKeyFile one with just the
	// seed of an NKey. Both are read again at every connection.
	CredsFile, NKeyFile string
	// User and Password, or Token, are what servers ask for that know neither.
	User, Password, Token string
	// CertFile and KeyFile are a client certificate and its key, CAFile the
	// authorities of the servers' certificates: PEM. Any of them asks for TLS.
	CertFile, KeyFile, CAFile string
	// Prefix begins the names of all that the broker has in NATS: up to 32 of
	// A-Z, a-z, 0-9, '-' and '_'. Default "pubsub".
	Prefix string
	// Replicas is how many servers keep each retained message and key: 1, 3 or 5.
	// 0 is 3 where there are that many servers, else 1, and takes what is there.
	Replicas int
	// MaxMessageSize is the length of the longest message, in bytes, that NATS must
	// accept. Default 32,512.
	MaxMessageSize int
	// SyncInterval is the time between two sweeps of the stream for what was
	// missed; it varies by a tenth. Default 120 s.
	SyncInterval time.Duration
	// Wait bounds how long a call waits for NATS if its context does not. Default
	// 5 s.
	Wait time.Duration
	// Linger is how long the interest in a topic outlasts its last Unsubscribe. Default
	// 5 s.
	Linger time.Duration
	// Events tells what happens within.
	Events Events

	// Set by tests.
	lookEvery time.Duration // default lookEvery
	looked    func()        // called after each look at the streams; may be nil
}

// Events are calls about what happens within a backplane, for logs and metrics.
// Each may be nil; they may overlap; none may block or call the backplane. None is
// ever told a secret.
type Events struct {
	// Waiting is told why the backplane does not work yet, after Open: at most
	// once a second.
	Waiting func(error)
	// Connected follows each connection to NATS, with the server's address.
	Connected func(server string)
	// Disconnected follows the loss of the connection.
	Disconnected func(error)
	// Resynced follows a sweep that has delivered n messages that had been missed; why
	// names its cause.
	Resynced func(why string, n int)
	// GenerationChanged follows a change of the stream's generation, which means that the
	// stream was made anew, or restored, or has lost messages.
	GenerationChanged func(from, to uint64)
	// StreamPurged reports that somebody has purged the stream of retained messages.
	StreamPurged func(stream string)
	// StreamCreated reports that this node has created a stream.
	StreamCreated func(stream string)
	// Fault reports a fault of a stream when it is noticed, and once a minute while it
	// lasts. Recovered reports its end.
	Fault     func(*Fault)
	Recovered func(stream string, lasted time.Duration)
	// Unreadable reports, once, a record in NATS that this release cannot read: a record
	// of a later release, or one that no release has written. Kind is key, message or
	// generation, and name the id of the key or the topic of the message. All other
	// records work.
	Unreadable func(kind, name string, err error)
	// KeysReplaced reports that the bucket of signing keys was recreated, restored or
	// purged. All keys are read again.
	KeysReplaced func(stream string)
	// Error reports an error from which the backplane recovers. The event names it in a
	// few constant words. Error may be called for every message.
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

// Backplane is a [pubsub.Backplane] over NATS. Make it with [Open].
type Backplane struct {
	*store
	*keyring
	*bus

	// immutable
	link *link

	running   sync.WaitGroup // what Open has started
	closeOnce sync.Once
}

var _ pubsub.Backplane = (*Backplane)(nil)

// Open returns a backplane that connects to NATS, makes there what is missing, and
// then works; calls wait for that, each within its bound. Its error says what is
// wrong with o. What is wrong with NATS for good, such as settings that a broker
// cannot work with, is the error of Run and of all other calls.
func Open(o Options) (*Backplane, error) {
	setDefaults(&o)
	options, err := connectOptions(&o)
	if err != nil {
		return nil, err
	}
	l := newLink(o)
	reads := newReads(l)
	w := newInterest(l)
	b := &Backplane{link: l, store: newStore(l, reads), keyring: &keyring{link: l}, bus: newBus(l, w, reads)}
	s := b.bus.sweeper
	l.generationChanged = s.everything
	l.missed = s.kick
	if err := l.connect(options); err != nil {
		return nil, err
	}
	for _, run := range []func(){l.setUp, newGuard(l).run, reads.run, w.run, b.store.puts.run} {
		b.running.Go(run)
	}
	return b, nil
}

func setDefaults(o *Options) {
	if o.Prefix == "" {
		o.Prefix = "pubsub"
	}
	if o.MaxMessageSize <= 0 {
		o.MaxMessageSize = 32512
	}
	if o.SyncInterval <= 0 {
		o.SyncInterval = 120 * time.Second
	}
	if o.Wait <= 0 {
		o.Wait = 5 * time.Second
	}
	if o.Linger <= 0 {
		o.Linger = 5 * time.Second
	}
	if o.lookEvery <= 0 {
		o.lookEvery = lookEvery
	}
}

// Health returns nil if the Bus is running, JetStream answers, and both streams exist and
// are usable.
func (b *Backplane) Health(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	bounded, cancel := b.link.bound(ctx)
	defer cancel()
	if !b.link.isReady() && b.link.life.Err() == nil {
		return fmt.Errorf("%w: the broker has not been set up in NATS yet", pubsub.ErrUnavailable)
	}
	if err := b.link.await(bounded); err != nil {
		return b.link.failure(ctx, err)
	}
	if !b.bus.isRunning() {
		return pubsub.ErrUnavailable
	}
	return b.link.failure(ctx, b.link.healthy(bounded))
}

// healthy returns nil if both streams answer and have no fault.
func (l *link) healthy(ctx context.Context) error {
	for _, want := range []jetstream.StreamConfig{retainedSettings(l.names, 1, 0), keysSettings(l.names, 0)} {
		if err := l.fault(want.Name); err != nil {
			return err
		}
		info, err := l.infoOf(ctx, want.Name)
		if f := l.judge(&want, info, err); f != nil {
			l.doubt()
			return f
		}
		switch {
		case want.Name == l.names.keysStream() && err != nil && passing(err) && ctx.Err() == nil:
			err = nil // the keys are known; the guard reports a lasting silence as a fault
		case err == nil && want.Name == l.names.stream() && !isLed(info.Cluster):
			_, err = l.committed(ctx)
		}
		if err != nil {
			return fmt.Errorf("stream %s: %w", want.Name, err)
		}
	}
	return nil
}

// Stats returns the figures of now, without waiting for anything.
func (b *Backplane) Stats() Stats {
	return Stats{
		Connected:      b.link.isUp(),
		Subscribed:     int(b.bus.interest.count.Load()),
		Nodes:          b.bus.nodes.count(),
		Reconnects:     b.link.reconnects.Load(),
		Resyncs:        b.link.sweeps.Load(),
		Missed:         b.link.repaired.Load(),
		SlowConsumer:   b.link.slow.Load(),
		PublishRetries: b.link.putsAgain.Load(),
		Faults:         b.link.faultCount(),
	}
}

// Close waits for the retained messages whose Put was begun, which takes no longer
// than they may wait, and ends all that Open has started. Calls made later return
// [pubsub.ErrClosed]; so do those that are under way.
func (b *Backplane) Close() error {
	b.closeOnce.Do(func() {
		b.store.puts.shut()
		b.link.end()
		b.store.puts.drain()
		b.bus.drain()
		b.link.nc.Close()
		close(b.link.gone)
	})
	b.running.Wait()
	return nil
}

// link is the connection to NATS, and what all parts know of the broker there.
type link struct {
	// immutable
	o     Options
	names names
	node  uint64 // the number of this node, random
	nc    *natsgo.Conn
	js    jetstream.JetStream
	life  context.Context // done when Close begins
	end   context.CancelFunc
	gone  chan struct{} // closed when the connection is
	ready chan struct{} // closed by setUp when all is there, or will never be

	doubted     chan struct{} // one slot: a stream may be missing
	connections *listeners    // notified of each new connection
	keysChanged *listeners    // notified when all keys must be read again

	// generationChanged is called when it has, and missed when something may have
	// been missed; neither blocks.
	generationChanged func()
	missed            func(why string)

	reconnects, sweeps, repaired, slow, putsAgain atomic.Uint64

	epoch epoch

	renewing sync.Mutex // held while the generation is looked at or changed

	lastWaiting atomic.Int64 // unix seconds of the last Events.Waiting

	mu      sync.Mutex
	failed  error              // guarded by mu: set if it can never work
	bad     map[badRecord]bool // guarded by mu: what Events.Unreadable has reported
	faults  map[string]*Fault  // guarded by mu: the present fault of each stream
	up      chan struct{}      // guarded by mu: closed while there is a connection
	session context.Context    // guarded by mu: done when the connection is lost
	lost    context.CancelFunc // guarded by mu: ends session
}

func newLink(o Options) *link {
	l := &link{
		o:      o,
		names:  names{prefix: o.Prefix},
		node:   randomNumber(),
		gone:   make(chan struct{}),
		ready:  make(chan struct{}),
		up:     make(chan struct{}),
		bad:    map[badRecord]bool{},
		faults: map[string]*Fault{},

		doubted:     make(chan struct{}, 1),
		connections: newListeners(),
		keysChanged: newListeners(),
	}
	l.life, l.end = context.WithCancel(context.Background())
	l.session, l.lost = context.WithCancel(context.Background())
	return l
}

// randomNumber returns a random number that is not 0.
func randomNumber() uint64 {
	for {
		var b [8]byte
		rand.Read(b[:]) // never fails
		if n := binary.BigEndian.Uint64(b[:]); n != 0 {
			return n
		}
	}
}

// badRecord names a record that cannot be read.
type badRecord struct {
	kind, name string
	seq        uint64
}

// maxBad is how many unreadable records are remembered. If there are more, some are
// reported again.
const maxBad = 4096

// unreadable calls Events.Unreadable, once for each record.
func (l *link) unreadable(kind, name string, seq uint64, err error) {
	one := badRecord{kind, name, seq}
	l.mu.Lock()
	known := l.bad[one]
	if !known {
		if len(l.bad) >= maxBad {
			clear(l.bad)
		}
		l.bad[one] = true
	}
	l.mu.Unlock()
	if !known && l.o.Events.Unreadable != nil {
		l.o.Events.Unreadable(kind, pubsub.Printable(name), err)
	}
}

// report calls Events.Error.
func (l *link) report(event string, err error) {
	if l.o.Events.Error != nil {
		l.o.Events.Error(event, err)
	}
}

// waits tells Events.Waiting, at most once a second.
func (l *link) waits(err error) {
	if l.o.Events.Waiting != nil && everySecond(&l.lastWaiting) {
		l.o.Events.Waiting(err)
	}
}

// everySecond is true once in a second.
func everySecond(last *atomic.Int64) bool {
	now := time.Now().Unix()
	before := last.Load()
	return before != now && last.CompareAndSwap(before, now)
}

// pause waits for d; false if ctx was done before.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// kick puts a token into a channel with one slot.
func kick(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// listeners are channels with one slot each that are notified together.
type listeners struct {
	mu  sync.Mutex
	all map[chan<- struct{}]struct{} // guarded by mu
}

func newListeners() *listeners { return &listeners{all: map[chan<- struct{}]struct{}{}} }

// add makes c one of the listeners until the function that it returns is called.
func (l *listeners) add(c chan<- struct{}) (stop func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all[c] = struct{}{}
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.all, c)
	}
}

func (l *listeners) kick() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.all {
		kick(c)
	}
}

// unkick takes back a kick.
func unkick(c <-chan struct{}) {
	select {
	case <-c:
	default:
	}
}
