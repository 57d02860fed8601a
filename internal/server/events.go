package server

import "time"

// Events is how logs and metrics learn what a [Server] does. The functions are
// called from many goroutines and must not block. No argument ever holds a
// token, a key's value or the admin token.
type Events struct {
	// Responded is called when a request has been answered that is not a stream
	// or a session. Route is the path's pattern, such as /admin/keys/ID, or other.
	Responded func(route, method string, status int)
	// Published is called when the backplane has accepted a message of size bytes
	// that came over HTTP; took is how long that lasted.
	Published func(size int, retain bool, took time.Duration)
	// KeyCreated and KeyDeleted are called when an administrator has done so.
	KeyCreated, KeyDeleted func(id string)
	// Failed is called when something failed that its operator should know of;
	// what names it in words.
	Failed func(what string, err error)
}

// fill makes every function callable.
func (e *Events) fill() {
	if e.Responded == nil {
		e.Responded = func(string, string, int) {}
	}
	if e.Published == nil {
		e.Published = func(int, bool, time.Duration) {}
	}
	if e.KeyCreated == nil {
		e.KeyCreated = func(string) {}
	}
	if e.KeyDeleted == nil {
		e.KeyDeleted = func(string) {}
	}
	if e.Failed == nil {
		e.Failed = func(string, error) {}
	}
}
