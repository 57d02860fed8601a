package client

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"syscall"
	"time"
)

// Message is a message as a subscriber gets it.
type Message struct {
	Topic string
	Data  []byte
	// ID is that of the event, empty if it has none.
	ID string
}

// Subscription says what to subscribe to, and what to do with what comes. All
// functions are called from one goroutine, and all but Message may be nil.
type Subscription struct {
	// Topics has at least one element.
	Topics []string
	// Token is one that may read them.
	Token string
	// Durable starts with the retained messages, and after an interruption with
	// those that are newer. By MQTT they always come.
	Durable bool

	// Message takes a message; its error ends the subscription.
	Message func(Message) error
	// Open is told whenever the subscription has become live.
	Open func()
	// Dropped is told how many messages were lost because they were not read
	// fast enough.
	Dropped func(count uint64)
	// Interrupted is told why the connection was lost, and for how long is
	// waited before the next.
	Interrupted func(err error, wait time.Duration)
}

// attempt is one connection of a subscription, from its begin to its end.
type attempt struct {
	opened bool          // the subscription was live
	retry  time.Duration // after which the server wants to be called again; 0 if it said nothing
	err    error         // why it ended; never nil
}

// consumerError is an error of the Message function.
type consumerError struct{ err error }

func (e *consumerError) Error() string { return e.err.Error() }

var (
	// errEnded is the end of a connection without a reason from the server.
	errEnded = errors.New("the server closed the connection")
	// errBroken is the premature end of a connection or a chunked body: the server, or a
	// proxy, was killed.
	errBroken = errors.New("the connection broke off")
	// errSilent reports a server that has not answered a ping.
	errSilent = errors.New("the server has stopped answering")
)

// lost returns an error that says for people why reading from a server failed.
func lost(err error) error {
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET):
		return errBroken
	case errors.Is(err, io.EOF):
		return errEnded
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return errSilent
	}
	return err
}

// subscribe calls connect again and again. It returns nil once ctx is done, and
// an error when coming back makes no sense: the server said so, or it has never
// been reached and did not say when to come back.
func (s *Subscription) subscribe(ctx context.Context, connect func(context.Context) attempt) error {
	reached, failures := false, 0
	for {
		a := connect(ctx)
		var consumer *consumerError
		switch {
		case errors.As(a.err, &consumer):
			return consumer.err
		case ctx.Err() != nil:
			return nil
		case final(a.err):
			return a.err
		}
		if a.opened {
			reached, failures = true, 0
		}
		if !reached && a.retry == 0 {
			return a.err
		}
		wait := backoff(failures, a.retry)
		failures++
		if s.Interrupted != nil {
			s.Interrupted(a.err, wait)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

// final reports whether the same request would fail again.
func final(err error) bool {
	var e *Error
	if !errors.As(err, &e) {
		return false
	}
	switch e.Condition {
	case BadRequest, Forbidden, TokenExpired, TokenRevoked, TakenOver, Foreign:
		return true
	}
	// What a client did wrong stays wrong, but for too many requests.
	return e.Status >= 300 && e.Status < 500 && e.Status != 429
}

const (
	firstWait = 500 * time.Millisecond
	longWait  = 30 * time.Second
	maxRetry  = 5 * time.Minute // the longest wait that a server can ask for
)

// backoff returns how long to wait after so many failures in a row: twice as
// long each time up to 30 s, never less than the server asked for, and up to
// half as long again, so that clients come back spread out.
func backoff(failures int, retry time.Duration) time.Duration {
	wait := firstWait
	if retry > 0 {
		wait = min(retry, maxRetry)
	}
	for range failures {
		if wait >= longWait {
			break
		}
		wait = min(2*wait, longWait)
	}
	return wait + rand.N(wait/2+1)
}
