package pubsub

import (
	"sync"
	"sync/atomic"
	"time"
)

// Message is one publication. It is immutable once it has been published: its
// slices are shared by everybody who delivers it.
type Message struct {
	Topic Topic
	// Data is the content, any bytes.
	Data []byte
	// Retain says that the message is to be kept as its topic's last one.
	Retain bool
	// Version is zero unless Retain is set and a Store has given one.
	Version Version
	// Published is when the broker accepted the message.
	Published time.Time
	// HasTTL says that TTL counts; without it the message never expires.
	HasTTL bool
	// TTL is the life of the message in seconds from Published (the Message
	// Expiry Interval of MQTT 5.0 section 3.3.2.3.3). With 0 it reaches live
	// subscribers, and nothing is kept.
	TTL uint32
	// Sender identifies the publishing MQTT client among all owners of client
	// identifiers, for No Local: a hash of 16 bytes. It is empty for other publishers.
	Sender string
	// Properties are those MQTT 5.0 PUBLISH properties that travel with the
	// message to MQTT subscribers, encoded as in section 2.2.2.2 without the
	// length in front: Payload Format Indicator, Content Type, Response Topic,
	// Correlation Data and User Properties, in the publisher's order. A record
	// that carries them must not change them.
	Properties []byte
}

// Expires returns when m stops being deliverable; ok is false if it never does.
// A message with a TTL of 0 has no such time: it is delivered live, whenever
// that is, and never kept.
func (m *Message) Expires() (at time.Time, ok bool) {
	if !m.HasTTL || m.TTL == 0 {
		return time.Time{}, false
	}
	return m.Published.Add(time.Duration(m.TTL) * time.Second), true
}

// Expired reports whether m must not be delivered any more.
func (m *Message) Expired(now time.Time) bool {
	at, ok := m.Expires()
	return ok && !now.Before(at)
}

// Remaining returns the Message Expiry Interval that a subscriber is told at
// now, in seconds: TTL less the whole seconds waited (MQTT 5.0 section
// 3.3.2.3.3). It is meaningful only with HasTTL.
func (m *Message) Remaining(now time.Time) uint32 {
	waited := now.Sub(m.Published)
	if waited <= 0 {
		return m.TTL
	}
	if s := uint64(waited / time.Second); s < uint64(m.TTL) {
		return m.TTL - uint32(s)
	}
	return 0
}

// Clears reports whether m, once published, leaves its topic with nothing
// retained: a retained message of zero bytes (MQTT 5.0 section 3.3.1.3) or one
// with a TTL of 0.
func (m *Message) Clears() bool {
	return m.Retain && (len(m.Data) == 0 || m.HasTTL && m.TTL == 0)
}

// Shape numbers a wire encoding of a message that several subscribers share.
type Shape uint8

// NumShapes is how many shapes a [Parcel] has room for.
const NumShapes = 6

// Parcel is a message on its way to the subscribers of one node, with its wire
// encodings: each is made once, when first asked for, and then shared,
// read-only, by all of them.
type Parcel struct {
	Message

	frames [NumShapes]atomic.Pointer[[]byte]
	mu     sync.Mutex // held while a frame is made
}

// NewParcel wraps m.
func NewParcel(m Message) *Parcel { return &Parcel{Message: m} }

// Frame returns the message in shape s. The first call for s has encode append
// it to an empty slice; encode must be the same function for every call with s.
func (p *Parcel) Frame(s Shape, encode func(dst []byte, m *Message) []byte) []byte {
	if f := p.frames[s].Load(); f != nil {
		return *f
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if f := p.frames[s].Load(); f != nil {
		return *f
	}
	b := encode(nil, &p.Message)
	p.frames[s].Store(&b)
	return b
}
