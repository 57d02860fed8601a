package pubsub

import (
	"context"
	"errors"
	"time"
)

var (
	// ErrKeyExists means that the id of a new signing key is taken.
	ErrKeyExists = errors.New("pubsub: key exists")
	// ErrKeyNotFound means that no signing key has the given id.
	ErrKeyNotFound = errors.New("pubsub: no such key")
	// ErrUnavailable means that the backplane cannot be reached at the moment. A
	// later retry may succeed.
	ErrUnavailable = errors.New("pubsub: backplane unavailable")
	// ErrClosed means that the backplane has been closed.
	ErrClosed = errors.New("pubsub: backplane closed")
)

// ClearMarkerTTL is how long a Store keeps the marker of a clear, so that a
// subscriber that resumes with an older version learns of the clear.
const ClearMarkerTTL = 24 * time.Hour

// Store keeps the retained message of each topic. Its methods may be called
// concurrently.
type Store interface {
	// Put makes m the retained message of its topic. The position of m in the
	// topic's order is fixed when Put returns, but the write may still be going on.
	// wait blocks until m is durable and returns the Version of m, or an error. The
	// caller must call wait exactly once. Put keeps no reference to the slices of m
	// after wait has returned.
	//
	// If [Message.Clears] reports true for m, Put stores a marker instead: a message
	// without data that has the new version and expires after [ClearMarkerTTL].
	//
	// After an error the topic retains its previous message, or m if the failure
	// leaves that open. If m becomes durable after wait has failed, the backplane
	// itself sends m on the Bus.
	Put(ctx context.Context, m Message) (wait func() (Version, error))

	// Last returns the retained message of t, or the marker of a clear, if it is
	// newer than after and has not expired. The result is durable. A version of
	// another generation, or one that the store has not reached yet, counts as the
	// zero Version. Last returns no markers for the zero Version.
	//
	// If ok is false, m has only a Version: after if that counts, otherwise zero.
	Last(ctx context.Context, t Topic, after Version) (m Message, ok bool, err error)

	// List returns up to limit retained messages, without data, in byte order of
	// their topics. It lists topics that begin with prefix and sort behind after. It
	// omits expired messages and markers of clears.
	List(ctx context.Context, prefix string, after Topic, limit int) ([]Message, error)
}

// Key is a key that signs tokens.
type Key struct {
	// ID is the kid that tokens name.
	ID string
	// Value is the secret. Its bytes are used as they are: hex is not decoded.
	Value string
	// Created is the time of creation, in whole seconds.
	Created time.Time
}

// Keyring keeps signing keys. Its methods may be called concurrently.
type Keyring interface {
	// PutKey adds k durably. It returns [ErrKeyExists] if the id of k is taken.
	PutKey(ctx context.Context, k Key) error
	// Keys returns all keys in byte order of their ids.
	Keys(ctx context.Context) ([]Key, error)
	// Key returns the newest state of the key id, or [ErrKeyNotFound].
	Key(ctx context.Context, id string) (Key, error)
	// DeleteKey removes the key id durably, or returns [ErrKeyNotFound].
	DeleteKey(ctx context.Context, id string) error
	// WatchKeys calls notify for every existing key, then once with only
	// [KeyEvent.Synced] set, then for every change. It returns nil once ctx is done.
	// Calls of notify do not overlap.
	WatchKeys(ctx context.Context, notify func(KeyEvent)) error
}

// KeyEvent is an event of [Keyring.WatchKeys].
type KeyEvent struct {
	// Key is the key that exists, was added or was deleted. If Deleted is set, its
	// Value is empty.
	Key Key
	// Deleted reports that the key was deleted. If a key existed only for a short
	// time, its deletion may be its only event.
	Deleted bool
	// Synced reports that the keys which existed at the start have all been passed.
	// The other fields are then zero.
	Synced bool
}

// Bus carries messages between the nodes of a broker, this node included. It
// delivers at most once and promises no order: versions restore the order, and the
// Store makes up for losses.
type Bus interface {
	// Send passes m to every node that has subscribed to its topic. A retained
	// message is sent after its Put and carries its version.
	Send(ctx context.Context, m Message) error
	// Subscribe returns once all messages sent to t from now on reach this node. Each
	// successful Subscribe needs one Unsubscribe.
	Subscribe(ctx context.Context, t Topic) error
	// Unsubscribe undoes one Subscribe.
	Unsubscribe(t Topic)
	// Broadcast passes c to every node and does not wait for replies.
	Broadcast(ctx context.Context, c ControlMessage) error
	// Gather passes c to every node and collects the replies. It returns them when
	// ctx is done, or as soon as all have arrived if the number of nodes is known.
	Gather(ctx context.Context, c ControlMessage) ([][]byte, error)
	// Run passes arriving messages to r until ctx is done, then returns nil. An error
	// means that the Bus is lost. Run is called once. Send, Broadcast and Gather work
	// once r.Ready has been called.
	Run(ctx context.Context, r Receiver) error
}

// Receiver holds the callbacks of a [Bus]. Calls may overlap. Only Rejoined may
// block.
type Receiver struct {
	// Ready is called once, when the Bus works.
	Ready func()
	// Deliver receives a message to a topic to which this node has subscribed. It may
	// also receive messages to other topics.
	Deliver func(*PreparedMessage)
	// Control receives a control message. A result that is not nil is the reply.
	Control func(ControlMessage) []byte
	// Rejoined, if not nil, is called after control messages to or from this node may
	// have been lost, for example after a network partition. It may run until ctx is
	// done. Its calls do not overlap.
	Rejoined func(ctx context.Context)
}

// ControlMessage is a small message between nodes.
type ControlMessage struct {
	// Kind is the type of the message; internal/server defines the types.
	Kind string
	// Body is opaque to the Bus.
	Body []byte
}

// Backplane connects a node to the broker's storage and to the other nodes.
type Backplane interface {
	Store
	Keyring
	Bus
	// Health returns nil if all three work at the moment.
	Health(ctx context.Context) error
	// Close stops all that the backplane has started and waits for it to end.
	Close() error
}
