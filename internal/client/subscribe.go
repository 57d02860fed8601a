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

// Message is a message that a subscription has received.
type Message struct {
	Topic string
	Data  []byte
	// ID is the id of the event, or empty.
	ID string
}

// Subscription describes a subscription and its callbacks. All callbacks are called from
// one goroutine, and all but Message may be nil.
type Subscription struct {
	// Topics has at least one element.
	Topics []string
	// Token must permit reading all topics.
	Token string
	// Durable requests the retained messages first, and after an interruption those that
	// are newer than the last one received. MQTT always sends retained messages first.
	Durable bool

	// Message receives a message. An error ends the subscription.
	Message func(Message) error
	// Open reports that the subscription is live, after each connection.
	Open func()
	// Dropped reports how many messages were lost because they were not read fast enough.
	Dropped func(count uint64)
	// Interrupted reports why the connection was lost, and the time until the next
	// attempt.
	Interrupted func(err error, wait time.Duration)
}

// attempt is the outcome of one connection of a subscription.
type attempt struct {
	opened bool          // the subscription was live
	retry  time.Duration // the wait that the server asked for, or 0
	err    error         // why the connection ended; never nil
}

// consumerError is an error of the Message function.
type consumerError struct{ err error }

func (e *consumerError) Error() string { return e.err.Error() }

var (
	// errConnectionClosed is the end of a connection without a reason from the server.
	errConnectionClosed = errors.New("the server closed the connection")
	// errConnectionLost is the premature end of a connection or a chunked body: the server, or a
	// proxy, was killed.
	errConnectionLost = errors.New("the connection was lost")
	// errNoAnswer means that the server has not answered a ping.
	errNoAnswer = errors.New("the server has stopped answering")
)

// readError returns a readable error for a failed read from a server.
func readError(err error) error {
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET):
		return errConnectionLost
	case errors.Is(err, io.EOF):
		return errConnectionClosed
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return errNoAnswer
	}
	return err
}

// subscribe calls connect until ctx is done, and then returns nil. It returns an error if a
// retry is pointless: the server's error is final, or the first connection failed and the
// server asked for no retry.
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
	// A client error is permanent, except 429 (too many requests).
	return e.Status >= 300 && e.Status < 500 && e.Status != 429
}

const (
	minBackoff = 500 * time.Millisecond
	maxBackoff = 30 * time.Second
	maxRetry   = 5 * time.Minute // the longest wait that a server can ask for
)

// backoff returns the wait after the given number of consecutive failures. It doubles with
// each failure up to 30 s and is never less than retry, the wait that the server asked for.
// Up to half of it is added at random, so that clients do not reconnect all at once.
func backoff(failures int, retry time.Duration) time.Duration {
	wait := minBackoff
	if retry > 0 {
		wait = min(retry, maxRetry)
	}
	for range failures {
		if wait >= maxBackoff {
			break
		}
		wait = min(2*wait, maxBackoff)
	}
	return wait + rand.N(wait/2+1)
}
