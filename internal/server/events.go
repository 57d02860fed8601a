package server

import (
	"context"
	"errors"
	"time"
)

// Events are the functions that a [Server] calls, for logs and metrics. They are called
// from many goroutines and must not block. No argument ever holds a token, a key's value or
// the admin token.
type Events struct {
	// Responded is called when a request has been answered, except for a stream or a
	// session. route is the pattern of the path, such as /admin/keys/ID, or other.
	Responded func(route, method string, status int)
	// Published is called when the backplane has accepted a message of size bytes within
	// the time took. transport is http or mqtt.
	Published func(transport string, size int, retain bool, took time.Duration)
	// PublishDropped is called when a message of an MQTT client is not accepted. The
	// client is notified only if it sent the message at QoS 1.
	PublishDropped func(reason, topic string)
	// DeliveryDropped is called when a subscriber does not get a message, for another
	// reason than that it is slow.
	DeliveryDropped func(reason string)
	// KeyCreated and KeyDeleted are called when an administrator has created or deleted a
	// key.
	KeyCreated, KeyDeleted func(id string)
	// Connected and Disconnected are called when a stream (transport sse) or a session
	// (mqtt) starts, and when it has ended.
	Connected, Disconnected func(transport string)
	// Refused is called when a stream or session is refused. reason is the condition of the
	// stream-error event, or its equivalent for a session.
	Refused func(transport, reason string)
	// TokenRefused is called with the reason when a client is answered Invalid token.
	// Anyone can cause that, so it should be counted and logged at debug level.
	TokenRefused func(reason error)
	// ClockJumped is called after the wall clock has jumped; by is positive for a jump
	// ahead.
	ClockJumped func(by time.Duration)
	// Failed is called for failures that the operator should know of. event is one of a few
	// constants in the form of a log message, such as "key watch failed". While the backplane
	// is unavailable, Failed is called for every request. It is not called for requests that
	// were canceled because the client has gone, because anyone can cause that.
	Failed func(event string, err error)
	// Panicked is called with the stack of the goroutine when the handler of a request
	// has panicked.
	Panicked func(value any, stack []byte)
}

// fill replaces nil functions by functions that do nothing.
func (e *Events) fill() {
	if e.Responded == nil {
		e.Responded = func(string, string, int) {}
	}
	if e.Published == nil {
		e.Published = func(string, int, bool, time.Duration) {}
	}
	if e.PublishDropped == nil {
		e.PublishDropped = func(string, string) {}
	}
	if e.DeliveryDropped == nil {
		e.DeliveryDropped = func(string) {}
	}
	if e.KeyCreated == nil {
		e.KeyCreated = func(string) {}
	}
	if e.KeyDeleted == nil {
		e.KeyDeleted = func(string) {}
	}
	if e.Connected == nil {
		e.Connected = func(string) {}
	}
	if e.Disconnected == nil {
		e.Disconnected = func(string) {}
	}
	if e.Refused == nil {
		e.Refused = func(string, string) {}
	}
	if e.TokenRefused == nil {
		e.TokenRefused = func(error) {}
	}
	if e.ClockJumped == nil {
		e.ClockJumped = func(time.Duration) {}
	}
	if e.Panicked == nil {
		e.Panicked = func(any, []byte) {}
	}
	failed := e.Failed
	e.Failed = func(event string, err error) {
		if failed != nil && !errors.Is(err, context.Canceled) {
			failed(event, err)
		}
	}
}
