// Package transfer copies retained messages and signing keys from one store to another
// through a file of JSON lines:
//
//	{"format":"pubsub-store","version":1,"exported":"2026-01-02T03:04:05Z"}
//	{"id":"0123456789abcdef","value":"…","created":"2026-01-01T00:00:00Z"}
//	{"topic":"news","published":"…","expires":"…","data":"hello"}
//	{"messages":1,"keys":1,"sha256":"…"}
//
// The first line names the format. The keys follow, in byte order of their ids, and then
// the messages, in byte order of their topics. The last line has their numbers and the
// SHA-256 checksum of all lines before it, with their line ends.
//
// Times are in the format of RFC 3339, with as many digits as they need. A message that
// expires has "expires", so the time that it spends in the file counts towards its TTL.
// Content that is not plain text is in "base64" instead of "data", or instead of a key's
// "value". "properties" and "sender" are those fields of a [pubsub.Message], in base64.
//
// Versions are not copied, because the other store assigns its own. Markers of clears are
// not copied either: a subscriber that resumes with a version of another store gets the
// topic's retained message in any case.
package transfer

import (
	"errors"
	"fmt"
	"time"

	"pubsub"
)

var (
	// ErrNewerFormat means that a later release has written the file.
	ErrNewerFormat = errors.New("export of a newer format")
	// ErrDamaged means that the file was changed since it was written.
	ErrDamaged = errors.New("export damaged")
	// ErrKeyDiffers means that the store has another key with the same id.
	ErrKeyDiffers = errors.New("the store has a signing key with the same id and another value")
	// ErrNotStored means that the store acknowledged a message but does not have it.
	ErrNotStored = errors.New("the store acknowledged the message but does not have it")
)

// LineError is an error in a line of the file.
type LineError struct {
	Line int // the first line is 1
	Err  error
}

func (e *LineError) Error() string { return fmt.Sprintf("line %d: %v", e.Line, e.Err) }

func (e *LineError) Unwrap() error { return e.Err }

// Store is the part of a [pubsub.Backplane] that keeps messages and keys.
type Store interface {
	pubsub.Store
	pubsub.Keyring
}

// Options are the settings of an export or import. The zero value works.
type Options struct {
	// WithoutKeys omits the signing keys.
	WithoutKeys bool
	// Progress, if not nil, is called repeatedly with the progress so far.
	Progress func(Progress)
	// Now returns the time by which messages expire; nil means [time.Now].
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

// Progress is the progress of an export or import.
type Progress struct {
	Messages int   // written or read so far
	Bytes    int64 // of the file, so far
}

// Summary describes the contents of a file.
type Summary struct {
	Messages, Keys int
	Bytes          int64
	// SHA256 is the checksum of all lines but the last, in hex.
	SHA256 string
}

// Result is the outcome of an import. The Summary is that of the file, or empty if the
// import failed.
type Result struct {
	Summary
	// Imported is the number of messages that were written to the store and read back.
	Imported int
	// Present is the number of messages that the store had already.
	Present int
	// Newer is the number of messages that were skipped because the store has a message
	// or a clear of the same topic that is at least as new.
	Newer int
	// Expired is the number of messages that were skipped because they have expired.
	Expired int
	// KeysImported is the number of keys that were added, and KeysPresent the number of
	// keys that the store had already.
	KeysImported, KeysPresent int
}
