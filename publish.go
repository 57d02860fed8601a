package pubsub

import "context"

// Publish starts to publish m: what must be kept takes its place in the store at
// once, the rest happens in finish. finish returns when the backplane has
// accepted m, with the version that a retained m was given. Messages published
// by one connection keep their order if each is begun, and each finish called,
// in that order; several may be begun before the first is finished, but a retained
// one only when those to its topic that are not retained are: subscribers are given
// what is retained before its finish is called.
//
// The error of a retained message that was not stored is a [*StoreError]; it has
// not been sent to anybody.
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
		// What is stored is accepted and reaches subscribers, by the store's
		// repair if not now: an error here would make the publisher repeat it.
		_ = b.Send(ctx, m)
		return v, nil
	}
}

// StoreError says that a retained message could not be stored.
type StoreError struct{ Err error }

func (e *StoreError) Error() string { return "store: " + e.Err.Error() }

func (e *StoreError) Unwrap() error { return e.Err }
