package pubsub

import "context"

// Publish starts to publish m. A retained message takes its position in the store at
// once; finish does the rest. finish returns when the backplane has accepted m, with
// the version of m if m is retained.
//
// The messages of one connection keep their order if both the calls of Publish and
// the calls of finish are made in that order. Several publishes may be pending, with
// one restriction: before a retained message, all pending plain messages to its topic
// must be finished, because subscribers may receive a retained message before its
// finish is called.
//
// If a retained message could not be stored, the error is a [*StoreError] and Publish
// has not sent the message.
func Publish(ctx context.Context, b Backplane, m Message) (finish func() (Version, error)) {
	if !m.Retain {
		return func() (Version, error) { return Version{}, b.Send(ctx, m) }
	}
	wait := b.Put(ctx, m)
	return func() (Version, error) {
		v, err := wait()
		if err != nil {
			return Version{}, &StoreError{Err: err}
		}
		m.Version = v
		// A stored message is accepted. If Send fails, the backplane's resync still
		// delivers the message, and an error would make the publisher repeat it.
		_ = b.Send(ctx, m)
		return v, nil
	}
}

// StoreError reports that a retained message could not be stored.
type StoreError struct{ Err error }

func (e *StoreError) Error() string { return "store: " + e.Err.Error() }

func (e *StoreError) Unwrap() error { return e.Err }
