// Package transfer carries what a broker keeps, retained messages and signing
// keys, from one store to another, through a file of JSON lines:
//
//	{"format":"pubsub-store","version":1,"exported":"2026-01-02T03:04:05Z"}
//	{"id":"0123456789abcdef","value":"…","created":"2026-01-01T00:00:00Z"}
//	{"topic":"news","published":"…","expires":"…","data":"hello"}
//	{"messages":1,"keys":1,"sha256":"…"}
//
// The first line names the format. Then come the keys in byte order of their ids,
// and the messages in byte order of their topics. The last line counts them, and
// has the checksum of all lines before it, their ends included.
//
// Times are RFC 3339 with as many digits as they need. "expires" is there if the
// message does, so that the time that it spends in the file counts. Content that
// is no plain text is "base64" in place of "data", or of a key's "value".
// "properties" are the MQTT properties that travel with the message, as
// [pubsub.Message] has them, and "sender" is who published it; both are base64.
//
// Versions stay behind: the other store gives its own. So do the markers of
// clears: a subscriber that resumes with a version of another store gets what is
// retained there, so there is nothing for them to tell.
package transfer

import (
	"errors"
	"fmt"
	"time"

	"pubsub"
)

var (
	// ErrNewerFormat says that a later release has written the file.
	ErrNewerFormat = errors.New("export of a newer format")
	// ErrDamaged says that the file is not as it was written.
	ErrDamaged = errors.New("export damaged")
	// ErrKeyDiffers says that the store has another key of the same id.
	ErrKeyDiffers = errors.New("the store has a signing key of that id with another value")
	// ErrNotKept says that the store does not have what it has acknowledged.
	ErrNotKept = errors.New("the store has acknowledged the message and does not have it")
)

// LineError is an error with the line of the file that it is about.
type LineError struct {
	Line int // the first is 1
	Err  error
}

func (e *LineError) Error() string { return fmt.Sprintf("line %d: %v", e.Line, e.Err) }

func (e *LineError) Unwrap() error { return e.Err }

// Store is the part of a [pubsub.Backplane] that keeps something.
type Store interface {
	pubsub.Store
	pubsub.Keyring
}

// Options are the settings of an export or import. The zero value works.
type Options struct {
	// WithoutKeys leaves the signing keys out.
	WithoutKeys bool
	// Progress, if not nil, is told again and again how far it is.
	Progress func(Progress)
	// Now tells the time by which messages expire; nil is [time.Now].
	Now func() time.Time
}

func (o *Options) now() time.Time {
	if o.Now == nil {
		return time.Now()
	}
	return o.Now()
}

func (o *Options) progress(p Progress) {
	if o.Progress != nil {
		o.Progress(p)
	}
}

// Progress is how far an export or import is.
type Progress struct {
	Messages int   // that were written or read
	Bytes    int64 // of the file
}

// Summary is what a file holds.
type Summary struct {
	Messages, Keys int
	Bytes          int64
	// SHA256 is the checksum of all lines but the last, in hex.
	SHA256 string
}

// Result is what an import did. The numbers of messages and keys that it met are
// those of the Summary; if it failed, that is empty.
type Result struct {
	Summary
	// Imported messages are in the store now, and were read back.
	Imported int
	// Present messages were there already.
	Present int
	// Newer is how many topics have a message in the store, or were cleared there,
	// no earlier than the message of the file was published.
	Newer int
	// Expired messages were left out.
	Expired int
	// KeysImported and KeysPresent are the keys that were added, and those that
	// were there already.
	KeysImported, KeysPresent int
}
