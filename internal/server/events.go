package server

import (
	"context"
	"errors"
	"time"
)

// Events is how logs and metrics learn what a [Server] does. The functions are
// called from many goroutines and must not block. No argument ever holds a
// token, a key's value or the admin token.
type Events struct {
	// Responded is called when a request has been answered that is not a stream
	// or a session. Route is the path's pattern, such as /admin/keys/ID, or other.
	Responded func(route, method string, status int)
	// Published is called when the backplane has accepted a message of size bytes;
	// took is how long that lasted. The transport is http or mqtt.
	Published func(transport string, size int, retain bool, took time.Duration)
	// PublishDropped is called when a message of an MQTT client is not accepted. The
	// client is notified only if it sent the message at QoS 1.
	PublishDropped func(reason, topic string)
	// DeliveryDropped is called when a client is not given a message that it has
	// subscribed to, for a reason other than that it is slow.
	DeliveryDropped func(reason string)
	// KeyCreated and KeyDeleted are called when an administrator has done so.
	KeyCreated, KeyDeleted func(id string)
	// Connected and Disconnected are called when a stream (transport sse) or a
	// session (mqtt) begins and when it has ended.
	Connected, Disconnected func(transport string)
	// Refused is called when there is to be no stream or session; reason is the
	// condition of the stream-error, or the MQTT reason code's name.
	Refused func(transport, reason string)
	// TokenRefused is called with the reason when a client reads Invalid token. Any
	// stranger can bring that about, so it is worth a count and a debug line.
	TokenRefused func(reason error)
	// ClockJumped is called after the wall clock has jumped, ahead if by is positive.
	ClockJumped func(by time.Duration)
	// Failed is called for failures that the operator should know of. The event is a
	// constant in the form of a log message, such as "key watch failed"; there are few.
	// While the backplane is away, Failed is called for every request. It is not called
	// for requests that were given up because the client has gone, since any stranger can
	// cause that.
	Failed func(event string, err error)
	// Panicked is called with the stack of the goroutine when the handler of a request
	// has panicked.
	Panicked func(value any, stack []byte)
}

// fill makes every function callable.
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
