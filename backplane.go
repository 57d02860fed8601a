package pubsub

import (
	"context"
	"errors"
	"time"
)

var (
	// ErrKeyExists says that a signing key of that id is there already.
	ErrKeyExists = errors.New("pubsub: key exists")
	// ErrKeyNotFound says that there is no signing key of that id.
	ErrKeyNotFound = errors.New("pubsub: no such key")
	// ErrUnavailable says that the backplane cannot be reached now and that
	// trying again later makes sense.
	ErrUnavailable = errors.New("pubsub: backplane unavailable")
	// ErrClosed says that the backplane has been closed.
	ErrClosed = errors.New("pubsub: backplane closed")
)

// ClearMarkerTTL is how long a clear is kept as its topic's newest value, so that a
// subscriber that resumes with an older version learns of it.
const ClearMarkerTTL = 24 * time.Hour

// Store keeps the last retained message of each topic. All methods may be called
// at the same time.
type Store interface {
	// Put makes m its topic's retained message and takes its place in the
	// topic's order before it returns; the write goes on until wait returns.
	// wait returns the Version that m was given, once m is durable, or says why
	// it is not kept. It must be called, once. A message that [Message.Clears]
	// is kept, for [ClearMarkerTTL], as a marker: a message without data that has
	// the same version. Put keeps no reference to m's slices after wait has
	// returned. After a failed Put the topic holds what it held before, or m if
	// the failure cannot tell. If m becomes durable after wait has failed, the
	// backplane sends it itself.
	Put(ctx context.Context, m Message) (wait func() (Version, error))

	// Last returns the topic's retained message or marker of a clear; ok is
	// false if there is none, if it has expired, or if it is not newer than
	// after. A version of another generation, or ahead of the store, counts as
	// none; with no version in after, the marker of a clear is not returned. If ok
	// is false, m has only a Version: after if that counts, else none. What it
	// returns is durable.
	Last(ctx context.Context, t Topic, after Version) (m Message, ok bool, err error)

	// List returns, in byte order of topics, up to limit retained messages that
	// have not expired, without data, of topics that begin with prefix and come
	// after the topic after. Markers of clears are not listed.
	List(ctx context.Context, prefix string, after Topic, limit int) ([]Message, error)
}

// Key is a key that signs tokens.
type Key struct {
	// ID is the kid that tokens name.
	ID string
	// Value is the secret: its bytes as they stand, hex is not decoded.
	Value string
	// Created is when it was made, to the second.
	Created time.Time
}

// Keyring keeps signing keys. All methods may be called at the same time.
type Keyring interface {
	// PutKey adds k, durably; [ErrKeyExists] if its id is taken.
	PutKey(ctx context.Context, k Key) error
	// Keys returns all keys, in byte order of their ids.
	Keys(ctx context.Context) ([]Key, error)
	// Key returns the newest state of one key; [ErrKeyNotFound] if there is none.
	Key(ctx context.Context, id string) (Key, error)
	// DeleteKey removes a key, durably; [ErrKeyNotFound] if there is none.
	DeleteKey(ctx context.Context, id string) error
	// WatchKeys calls changed for every key that there is, then once with no key
	// and ready set, then for every change, until ctx is done; it then returns
	// nil. Calls to changed do not overlap.
	WatchKeys(ctx context.Context, changed func(KeyEvent)) error
}

// KeyEvent is one thing that happened to a key.
type KeyEvent struct {
	Key     Key  // Value is empty if Deleted
	Deleted bool // the key is no more; perhaps one that was never told, being gone too soon
	Synced  bool // no change: all keys that there were have been told
}

// Bus carries messages and control between the nodes of a broker, this one
// included: at most once, in no promised order. Versions settle the order and
// the Store settles the loss.
type Bus interface {
	// Send passes m to every node that wants its topic. The retained message of
	// a topic is sent after its Put, with its version.
	Send(ctx context.Context, m Message) error
	// Subscribe returns once messages sent to t from now on reach this node. Each
	// successful Subscribe is undone by one Unsubscribe.
	Subscribe(ctx context.Context, t Topic) error
	// Unsubscribe undoes one Subscribe.
	Unsubscribe(t Topic)
	// Broadcast passes c to every node; no reply is waited for.
	Broadcast(ctx context.Context, c ControlMessage) error
	// Gather passes c to every node and returns the replies that came before ctx
	// was done or, where their number is known, all of them.
	Gather(ctx context.Context, c ControlMessage) ([][]byte, error)
	// Run passes what arrives to r until ctx is done, then returns nil; an error
	// means that the Bus is lost. It is called once. Send, Broadcast and Gather work as
	// soon as Ready has been called.
	Run(ctx context.Context, r Receiver) error
}

// Receiver is what a Bus calls on its node. The calls may overlap; none blocks but
// Rejoined.
type Receiver struct {
	// Ready is called once, when the Bus works.
	Ready func()
	// Deliver takes a message that was sent to a wanted topic. A message to a
	// topic that is not wanted may be passed too.
	Deliver func(*PreparedMessage)
	// Control takes what was told or asked; its result, if not nil, is the reply.
	Control func(ControlMessage) []byte
	// Rejoined, if not nil, is called after this node was cut off from others, or
	// may have been, so that what was told meanwhile may not have come, either way. It may take until
	// ctx is done, and is not called again meanwhile.
	Rejoined func(ctx context.Context)
}

// ControlMessage is a small message from node to node.
type ControlMessage struct {
	// Kind says what it is about; see internal/server.
	Kind string
	// Body is opaque to the Bus.
	Body []byte
}

// Backplane is what stands behind a broker node.
type Backplane interface {
	Store
	Keyring
	Bus
	// Health returns nil if all three work now.
	Health(ctx context.Context) error
	// Close ends what the backplane has started and waits for it.
	Close() error
}
