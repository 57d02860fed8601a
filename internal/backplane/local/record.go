package local

import (
	"encoding/binary"
	"fmt"
	"time"

	"pubsub"
)

// Keys of the database begin with a byte that gives their kind:
//
//	g               the generation, 8 bytes
//	h               the high-water mark of sequence numbers, 8 bytes
//	k ID            a signing key: appendKey
//	m TOPIC         a retained message or a marker of a clear: appendRecord
//	x TIME TOPIC    no value: the record of TOPIC expires at TIME
//
// Numbers are big-endian. TIME is seconds since 1970 with the sign bit flipped,
// so that the order of bytes is the order of time.
const (
	prefixKey     = 'k'
	prefixMessage = 'm'
	prefixExpiry  = 'x'

	expiryHead = 1 + 8 // bytes of an expiry key before the topic
)

var (
	generationKey = []byte("g")
	highWaterKey  = []byte("h")
)

// recordVersion is the first byte of every record. A reader refuses a version that is newer
// than its own.
const recordVersion = 1

const (
	flagMarker = 1 << iota // marker of a clear: no data, kept for pubsub.ClearMarkerTTL
	flagTTL                // the message has a TTL
	flagsKnown = 1<<iota - 1
)

// The offsets of the fields in the fixed part of a message record.
const (
	seqOffset   = 1
	flagsOffset = seqOffset + 8
	timeOffset  = flagsOffset + 1
	ttlOffset   = timeOffset + 12
	fixedBytes  = ttlOffset + 4
)

// recordHead is the fixed part of a record.
type recordHead struct {
	seq       uint64
	marker    bool
	hasTTL    bool
	ttl       uint32
	published time.Time
}

// message returns the message without sender, properties and data.
func (h *recordHead) message(t pubsub.Topic, generation uint64) pubsub.Message {
	return pubsub.Message{
		Topic:     t,
		Retain:    true,
		Version:   pubsub.Version{Generation: generation, Seq: h.seq},
		Published: h.published,
		HasTTL:    h.hasTTL,
		TTL:       h.ttl,
	}
}

// expires returns the time at which the record expires. ok reports whether it ever does.
func (h *recordHead) expires() (at time.Time, ok bool) {
	switch {
	case h.marker:
		return h.published.Add(pubsub.ClearMarkerTTL), true
	case h.hasTTL:
		return h.published.Add(time.Duration(h.ttl) * time.Second), true
	}
	return time.Time{}, false
}

// expired reports whether the record has expired by now.
func (h *recordHead) expired(now time.Time) bool {
	at, ok := h.expires()
	return ok && !now.Before(at)
}

// headOf returns the head of m's record, without a sequence number. A marker of a clear has
// no TTL, so that subscribers who resume receive it for as long as it is kept.
func headOf(m *pubsub.Message) recordHead {
	h := recordHead{published: m.Published, marker: len(m.Data) == 0 || m.HasTTL && m.TTL == 0}
	if m.HasTTL && !h.marker {
		h.hasTTL, h.ttl = true, m.TTL
	}
	return h
}

// recordSize returns the length of m's record.
func recordSize(m *pubsub.Message, h *recordHead) int {
	n := fixedBytes + stringSize(len(m.Sender)) + stringSize(len(m.Properties))
	if !h.marker {
		n += len(m.Data)
	}
	return n
}

func stringSize(n int) int {
	var b [binary.MaxVarintLen64]byte
	return binary.PutUvarint(b[:], uint64(n)) + n
}

// appendRecord appends the record of m, whose head is h, to dst:
//
//	version 1 · seq 8 · flags 1 · published: seconds 8, nanoseconds 4 · TTL 4 ·
//	sender (uvarint length, bytes) · properties (the same) · data (the rest)
func appendRecord(dst []byte, m *pubsub.Message, h *recordHead) []byte {
	var flags byte
	if h.marker {
		flags |= flagMarker
	}
	if h.hasTTL {
		flags |= flagTTL
	}
	dst = append(dst, recordVersion)
	dst = binary.BigEndian.AppendUint64(dst, h.seq)
	dst = append(dst, flags)
	dst = binary.BigEndian.AppendUint64(dst, uint64(h.published.Unix()))
	dst = binary.BigEndian.AppendUint32(dst, uint32(h.published.Nanosecond()))
	dst = binary.BigEndian.AppendUint32(dst, h.ttl)
	dst = binary.AppendUvarint(dst, uint64(len(m.Sender)))
	dst = append(dst, m.Sender...)
	dst = binary.AppendUvarint(dst, uint64(len(m.Properties)))
	dst = append(dst, m.Properties...)
	if !h.marker {
		dst = append(dst, m.Data...)
	}
	return dst
}

// parseHead reads the fixed part of a record. The error is [ErrNewerFormat] or
// [ErrCorrupt].
func parseHead(b []byte) (recordHead, error) {
	if err := checkVersion(b); err != nil {
		return recordHead{}, err
	}
	if len(b) < fixedBytes {
		return recordHead{}, fmt.Errorf("%w: record of %d bytes", ErrCorrupt, len(b))
	}
	flags := b[flagsOffset]
	if flags&^flagsKnown != 0 {
		return recordHead{}, fmt.Errorf("%w: record with flags %#x", ErrNewerFormat, flags)
	}
	nsec := binary.BigEndian.Uint32(b[timeOffset+8:])
	if nsec >= 1e9 {
		return recordHead{}, fmt.Errorf("%w: record with %d nanoseconds", ErrCorrupt, nsec)
	}
	return recordHead{
		seq:       binary.BigEndian.Uint64(b[seqOffset:]),
		marker:    flags&flagMarker != 0,
		hasTTL:    flags&flagTTL != 0,
		ttl:       binary.BigEndian.Uint32(b[ttlOffset:]),
		published: time.Unix(int64(binary.BigEndian.Uint64(b[timeOffset:])), int64(nsec)).UTC(),
	}, nil
}

func checkVersion(b []byte) error {
	switch {
	case len(b) == 0 || b[0] == 0:
		return fmt.Errorf("%w: record without a version", ErrCorrupt)
	case b[0] > recordVersion:
		return fmt.Errorf("%w: record of version %d, and this release reads up to %d; use a later release", ErrNewerFormat, b[0], recordVersion)
	}
	return nil
}

// parseRecord reads a whole record. The message's slices point into b.
func parseRecord(t pubsub.Topic, generation uint64, b []byte) (pubsub.Message, recordHead, error) {
	h, err := parseHead(b)
	if err != nil {
		return pubsub.Message{}, h, err
	}
	m := h.message(t, generation)
	sender, rest, err := cutString(b[fixedBytes:])
	if err != nil {
		return pubsub.Message{}, h, err
	}
	properties, rest, err := cutString(rest)
	if err != nil {
		return pubsub.Message{}, h, err
	}
	if h.marker && len(rest) != 0 {
		return pubsub.Message{}, h, fmt.Errorf("%w: marker of a clear with data", ErrCorrupt)
	}
	m.Sender = string(sender)
	if len(properties) != 0 {
		m.Properties = properties
	}
	if len(rest) != 0 {
		m.Data = rest
	}
	return m, h, nil
}

// cutString cuts a string with its length from the beginning of b.
func cutString(b []byte) (s, rest []byte, err error) {
	n, k := binary.Uvarint(b)
	if k <= 0 || n > uint64(len(b)-k) {
		return nil, nil, fmt.Errorf("%w: record cut short", ErrCorrupt)
	}
	end := k + int(n)
	return b[k:end:end], b[end:], nil
}

// appendMessageKey appends the key of a topic's record to dst.
func appendMessageKey(dst []byte, t pubsub.Topic) []byte {
	return append(append(dst, prefixMessage), t...)
}

// appendExpiryKey appends the expiry key of the record of t, whose head is h, to dst. ok
// reports whether the record expires. The time is rounded up to the second, so no record
// is removed before it has expired.
func appendExpiryKey(dst []byte, h *recordHead, t pubsub.Topic) (key []byte, ok bool) {
	at, ok := h.expires()
	if !ok {
		return dst, false
	}
	return append(appendExpiryTime(dst, at.Add(time.Second-1)), t...), true
}

// appendExpiryTime appends the beginning of the expiry keys for the second of at to dst.
func appendExpiryTime(dst []byte, at time.Time) []byte {
	return binary.BigEndian.AppendUint64(append(dst, prefixExpiry), uint64(at.Unix())^(1<<63))
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
		return pubsub.Key{}, err
	}
	if len(b) < 9 {
		return pubsub.Key{}, fmt.Errorf("%w: record of a key of %d bytes", ErrCorrupt, len(b))
	}
	created := time.Unix(int64(binary.BigEndian.Uint64(b[1:])), 0).UTC()
	return pubsub.Key{ID: id, Value: string(b[9:]), Created: created}, nil
}
