package layout

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"pubsub"
)

// recordVersion is the first byte of every record. Neighbouring releases read each other's
// records, so that a cluster can be upgraded node by node.
const recordVersion = 1

const (
	flagTTL    = 1 << iota // the message has a TTL
	flagsKnown = 1<<iota - 1
)

// Offsets of the fields in the fixed part of a message's record.
const (
	flagsOffset = 1
	timeOffset  = flagsOffset + 1
	ttlOffset   = timeOffset + 12
	fixedBytes  = ttlOffset + 4
)

var (
	// ErrNewerFormat reports a record that a later release has written and this release cannot
	// read.
	ErrNewerFormat = errors.New("written by a later release")
	// ErrForeign reports data, in a place that belongs to the broker, that no release of it has
	// written.
	ErrForeign = errors.New("not written by this broker")
)

// AppendMessage appends the record of m to dst, without its topic and version, which the subject
// and the sequence number carry:
//
//	version 1 · flags 1 · published: seconds 8, nanoseconds 4 · TTL 4 ·
//	sender (uvarint length, bytes) · properties (likewise) · data (the rest)
//
// Numbers are big-endian. Stored messages and plain messages have this payload.
func AppendMessage(dst []byte, m *pubsub.Message) []byte {
	var flags byte
	if m.HasTTL {
		flags |= flagTTL
	}
	dst = append(dst, recordVersion, flags)
	dst = binary.BigEndian.AppendUint64(dst, uint64(m.Published.Unix()))
	dst = binary.BigEndian.AppendUint32(dst, uint32(m.Published.Nanosecond()))
	dst = binary.BigEndian.AppendUint32(dst, m.TTL)
	dst = binary.AppendUvarint(dst, uint64(len(m.Sender)))
	dst = append(dst, m.Sender...)
	dst = binary.AppendUvarint(dst, uint64(len(m.Properties)))
	dst = append(dst, m.Properties...)
	return append(dst, m.Data...)
}

// MaxMessageBytes returns an upper bound of the length of m's record.
func MaxMessageBytes(m *pubsub.Message) int {
	return fixedBytes + 2*binary.MaxVarintLen64 + len(m.Sender) + len(m.Properties) + len(m.Data)
}

// ParseMessage parses the record of a message to topic t. A message with version 0 is plain. The
// message's slices point into b.
func ParseMessage(t pubsub.Topic, v pubsub.Version, b []byte) (pubsub.Message, error) {
	if err := checkVersion(b); err != nil {
		return pubsub.Message{}, err
	}
	if len(b) < fixedBytes {
		return pubsub.Message{}, fmt.Errorf("%w: record of %d bytes", ErrForeign, len(b))
	}
	flags := b[flagsOffset]
	if flags&^flagsKnown != 0 {
		return pubsub.Message{}, fmt.Errorf("%w: record with flags %#x", ErrNewerFormat, flags)
	}
	nsec := binary.BigEndian.Uint32(b[timeOffset+8:])
	if nsec >= 1e9 {
		return pubsub.Message{}, fmt.Errorf("%w: record with %d nanoseconds", ErrForeign, nsec)
	}
	m := pubsub.Message{
		Topic:     t,
		Retain:    !v.IsZero(),
		Version:   v,
		Published: time.Unix(int64(binary.BigEndian.Uint64(b[timeOffset:])), int64(nsec)).UTC(),
		HasTTL:    flags&flagTTL != 0,
		TTL:       binary.BigEndian.Uint32(b[ttlOffset:]),
	}
	sender, rest, err := cutBytes(b[fixedBytes:])
	if err != nil {
		return pubsub.Message{}, err
	}
	properties, rest, err := cutBytes(rest)
	if err != nil {
		return pubsub.Message{}, err
	}
	m.Sender = string(sender)
	if len(properties) != 0 {
		m.Properties = properties
	}
	if len(rest) != 0 {
		m.Data = rest
	}
	return m, nil
}

func checkVersion(b []byte) error {
	switch {
	case len(b) == 0 || b[0] == 0:
		return fmt.Errorf("%w: no record", ErrForeign)
	case b[0] > recordVersion:
		return fmt.Errorf("%w: record of version %d, but this release reads at most %d: use a later release", ErrNewerFormat, b[0], recordVersion)
	}
	return nil
}

// cutBytes cuts a length, and as many bytes, off b.
func cutBytes(b []byte) (field, rest []byte, err error) {
	n, k := binary.Uvarint(b)
	if k <= 0 || n > uint64(len(b)-k) {
		return nil, nil, fmt.Errorf("%w: record cut short", ErrForeign)
	}
	end := k + int(n)
	return b[k:end:end], b[end:], nil
}

// AsRetained returns m, which was read from the stream, as [pubsub.Store] defines it: the marker
// of a clear has neither data nor expiry. The record of a message with a TTL of 0 contains its
// data all the same, because JetStream announces to subscribers exactly what it stores.
func AsRetained(m pubsub.Message) pubsub.Message {
	if m.Clears() {
		m.Data, m.HasTTL, m.TTL = nil, false, 0
	}
	return m
}

// StreamTTL returns for how long JetStream must keep m, in whole seconds: at least as long as m
// lives, or 0 for no limit. A message that has expired already is stored for one second, so that
// it replaces the one before it.
func StreamTTL(m *pubsub.Message, now time.Time) int64 {
	if m.Clears() {
		return int64(pubsub.ClearMarkerTTL / time.Second)
	}
	at, ok := m.Expires()
	if !ok {
		return 0
	}
	return max(1, int64((at.Sub(now)+time.Second-1)/time.Second))
}

// AppendKey appends the record of a signing key to dst:
//
//	version 1 · created: seconds 8 · value (the rest)
func AppendKey(dst []byte, k pubsub.Key) []byte {
	dst = append(dst, recordVersion)
	dst = binary.BigEndian.AppendUint64(dst, uint64(k.Created.Unix()))
	return append(dst, k.Value...)
}

// ParseKey parses the record of the signing key id.
func ParseKey(id string, b []byte) (pubsub.Key, error) {
	if err := checkVersion(b); err != nil {
		return pubsub.Key{}, fmt.Errorf("signing key %q: %w", id, err)
	}
	if len(b) < 9 {
		return pubsub.Key{}, fmt.Errorf("signing key %q: %w: record of %d bytes", id, ErrForeign, len(b))
	}
	created := time.Unix(int64(binary.BigEndian.Uint64(b[1:])), 0).UTC()
	return pubsub.Key{ID: id, Value: string(b[9:]), Created: created}, nil
}

// AppendGeneration appends the record of a stream's generation to dst: version 1 · generation 8.
func AppendGeneration(dst []byte, g uint64) []byte {
	return binary.BigEndian.AppendUint64(append(dst, recordVersion), g)
}

// ParseGeneration parses the record of a stream's generation, which is not 0.
func ParseGeneration(b []byte) (uint64, error) {
	if err := checkVersion(b); err != nil {
		return 0, fmt.Errorf("generation: %w", err)
	}
	if len(b) != 9 || binary.BigEndian.Uint64(b[1:]) == 0 {
		return 0, fmt.Errorf("generation: %w: record of %d bytes", ErrForeign, len(b))
	}
	return binary.BigEndian.Uint64(b[1:]), nil
}

// Control is a control message between nodes, or a reply to one.
type Control struct {
	Node   uint64 // the sending node
	Number uint64 // counts what Node broadcasts, from 1; 0 in a reply
	Kind   string // begins with '+' if it belongs to the bus itself
	Body   []byte // nil if empty
}

// AppendControl appends the record of a control message to dst:
//
//	version 1 · node 8 · number 8 · kind (uvarint length, bytes) · body (the rest)
func AppendControl(dst []byte, c Control) []byte {
	dst = append(dst, recordVersion)
	dst = binary.BigEndian.AppendUint64(dst, c.Node)
	dst = binary.BigEndian.AppendUint64(dst, c.Number)
	dst = binary.AppendUvarint(dst, uint64(len(c.Kind)))
	dst = append(dst, c.Kind...)
	return append(dst, c.Body...)
}

// ParseControl parses the record of a control message, whose body points into b.
func ParseControl(b []byte) (Control, error) {
	if err := checkVersion(b); err != nil {
		return Control{}, fmt.Errorf("control message: %w", err)
	}
	if len(b) < 17 {
		return Control{}, fmt.Errorf("control message: %w: %d bytes", ErrForeign, len(b))
	}
	kind, rest, err := cutBytes(b[17:])
	if err != nil {
		return Control{}, fmt.Errorf("control message: %w", err)
	}
	c := Control{Node: binary.BigEndian.Uint64(b[1:]), Number: binary.BigEndian.Uint64(b[9:]), Kind: string(kind)}
	if len(rest) != 0 {
		c.Body = rest
	}
	return c, nil
}
