package nats

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"pubsub"
)

// recordVersion is the first byte of every record. Neighbouring releases read each
// other's, so that a cluster can be upgraded node by node.
const recordVersion = 1

const (
	flagTTL    = 1 << iota // the TTL counts
	flagsKnown = 1<<iota - 1
)

// flagsOffset and the offsets after it are where the fixed part of a message's
// record keeps its fields.
const (
	flagsOffset = 1
	timeOffset  = flagsOffset + 1
	ttlOffset   = timeOffset + 12
	fixedBytes  = ttlOffset + 4
)

var (
	// ErrNewerFormat says that a later release has written what this one cannot
	// read.
	ErrNewerFormat = errors.New("written by a later release")
	// ErrNoRecord says that something is stored or was sent in a place of this
	// broker's that no release of it has written.
	ErrNoRecord = errors.New("not written by this broker")
)

// appendRecord appends m to dst, without its topic and version, which travel
// outside:
//
//	version 1 · flags 1 · published: seconds 8, nanoseconds 4 · TTL 4 ·
//	sender (uvarint length, bytes) · properties (the same) · data (the rest)
//
// Numbers are big-endian. It is the payload of what is stored and of what is sent.
func appendRecord(dst []byte, m *pubsub.Message) []byte {
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

// recordSize returns the length of m's record.
func recordSize(m *pubsub.Message) int {
	return fixedBytes + 2*binary.MaxVarintLen64 + len(m.Sender) + len(m.Properties) + len(m.Data)
}

// parseRecord reads a message of topic t and version v; with a zero v it is not
// retained. The message's slices point into b.
func parseRecord(t pubsub.Topic, v pubsub.Version, b []byte) (pubsub.Message, error) {
	if err := checkVersion(b); err != nil {
		return pubsub.Message{}, err
	}
	if len(b) < fixedBytes {
		return pubsub.Message{}, fmt.Errorf("%w: record of %d bytes", ErrNoRecord, len(b))
	}
	flags := b[flagsOffset]
	if flags&^flagsKnown != 0 {
		return pubsub.Message{}, fmt.Errorf("%w: record with flags %#x", ErrNewerFormat, flags)
	}
	nsec := binary.BigEndian.Uint32(b[timeOffset+8:])
	if nsec >= 1e9 {
		return pubsub.Message{}, fmt.Errorf("%w: record with %d nanoseconds", ErrNoRecord, nsec)
	}
	m := pubsub.Message{
		Topic:     t,
		Retain:    !v.IsZero(),
		Version:   v,
		Published: time.Unix(int64(binary.BigEndian.Uint64(b[timeOffset:])), int64(nsec)).UTC(),
		HasTTL:    flags&flagTTL != 0,
		TTL:       binary.BigEndian.Uint32(b[ttlOffset:]),
	}
	sender, rest, err := cutString(b[fixedBytes:])
	if err != nil {
		return pubsub.Message{}, err
	}
	properties, rest, err := cutString(rest)
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
		return fmt.Errorf("%w: no record", ErrNoRecord)
	case b[0] > recordVersion:
		return fmt.Errorf("%w: record of version %d, and this release reads up to %d; use a later release", ErrNewerFormat, b[0], recordVersion)
	}
	return nil
}

// cutString takes a length and so many bytes off b.
func cutString(b []byte) (s, rest []byte, err error) {
	n, k := binary.Uvarint(b)
	if k <= 0 || n > uint64(len(b)-k) {
		return nil, nil, fmt.Errorf("%w: record cut short", ErrNoRecord)
	}
	end := k + int(n)
	return b[k:end:end], b[end:], nil
}

// kept returns m, which was read from the stream, as the store has it: a clear is
// a marker without data or expiry. A message with a TTL of 0 is stored whole all
// the same, since JetStream announces to live subscribers just what it stores.
func kept(m pubsub.Message) pubsub.Message {
	if m.Clears() {
		m.Data, m.HasTTL, m.TTL = nil, false, 0
	}
	return m
}

// lifeOf returns how long JetStream is to keep m, in whole seconds and no less
// than m's own life; 0 is for ever. A message that has expired is stored for a
// moment, in the place of the one before it.
func lifeOf(m *pubsub.Message, now time.Time) int64 {
	if m.Clears() {
		return int64(pubsub.ClearMarkerTTL / time.Second)
	}
	at, ok := m.Expires()
	if !ok {
		return 0
	}
	return max(1, int64((at.Sub(now)+time.Second-1)/time.Second))
}

// appendKey appends the record of a signing key to dst:
//
//	version 1 · created: seconds 8 · value (the rest)
func appendKey(dst []byte, k pubsub.Key) []byte {
	dst = append(dst, recordVersion)
	dst = binary.BigEndian.AppendUint64(dst, uint64(k.Created.Unix()))
	return append(dst, k.Value...)
}

// parseKey reads the record of the signing key id.
func parseKey(id string, b []byte) (pubsub.Key, error) {
	if err := checkVersion(b); err != nil {
		return pubsub.Key{}, fmt.Errorf("signing key %q: %w", id, err)
	}
	if len(b) < 9 {
		return pubsub.Key{}, fmt.Errorf("signing key %q: %w: record of %d bytes", id, ErrNoRecord, len(b))
	}
	created := time.Unix(int64(binary.BigEndian.Uint64(b[1:])), 0).UTC()
	return pubsub.Key{ID: id, Value: string(b[9:]), Created: created}, nil
}

// appendGeneration appends the record of a stream's generation: version 1 ·
// generation 8.
func appendGeneration(dst []byte, g uint64) []byte {
	return binary.BigEndian.AppendUint64(append(dst, recordVersion), g)
}

// parseGenerationRecord reads what appendGeneration has written.
func parseGenerationRecord(b []byte) (uint64, error) {
	if err := checkVersion(b); err != nil {
		return 0, fmt.Errorf("generation: %w", err)
	}
	if len(b) != 9 || binary.BigEndian.Uint64(b[1:]) == 0 {
		return 0, fmt.Errorf("generation: %w: record of %d bytes", ErrNoRecord, len(b))
	}
	return binary.BigEndian.Uint64(b[1:]), nil
}

// appendControl appends a control message to dst, or a node's reply to one, whose
// kind begins with '+':
//
//	version 1 · node 8 · number 8 · kind (uvarint length, bytes) · body (the rest)
//
// node is the number of the node that sends it, number that of the message among
// those that the node tells all others, from 1; 0 for a reply.
func appendControl(dst []byte, node, number uint64, kind string, body []byte) []byte {
	dst = append(dst, recordVersion)
	dst = binary.BigEndian.AppendUint64(dst, node)
	dst = binary.BigEndian.AppendUint64(dst, number)
	dst = binary.AppendUvarint(dst, uint64(len(kind)))
	dst = append(dst, kind...)
	return append(dst, body...)
}

// parseControl reads what appendControl has written. The body points into b, and
// is nil if it is empty.
func parseControl(b []byte) (node, number uint64, kind string, body []byte, err error) {
	if err := checkVersion(b); err != nil {
		return 0, 0, "", nil, fmt.Errorf("control message: %w", err)
	}
	if len(b) < 17 {
		return 0, 0, "", nil, fmt.Errorf("control message: %w: %d bytes", ErrNoRecord, len(b))
	}
	k, rest, err := cutString(b[17:])
	if err != nil {
		return 0, 0, "", nil, fmt.Errorf("control message: %w", err)
	}
	if len(rest) != 0 {
		body = rest
	}
	return binary.BigEndian.Uint64(b[1:]), binary.BigEndian.Uint64(b[9:]), string(k), body, nil
}
