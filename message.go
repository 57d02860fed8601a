package pubsub

import (
	"sync"
	"sync/atomic"
	"time"
	"unsafe"
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

// RemainingTTL returns the Message Expiry Interval that a subscriber is told at
// now, in seconds: TTL less the whole seconds waited (MQTT 5.0 section
// 3.3.2.3.3). It is meaningful only with HasTTL.
func (m *Message) RemainingTTL(now time.Time) uint32 {
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

// Encoding numbers a wire encoding of a message that several subscribers share.
type Encoding uint8

// NumEncodings is how many shapes a [PreparedMessage] has room for.
const NumEncodings = 6

// PreparedMessage is a message on its way to the subscribers of one node, with its wire
// encodings: each is made once, when first asked for, and then shared,
// read-only, by all of them.
type PreparedMessage struct {
	Message

	// MaxEncodedSize is an upper bound of the length of an encoding, in bytes. The creator may set
	// it before the parcel is shared.
	MaxEncodedSize int

	encoded [NumEncodings]atomic.Pointer[[]byte]
	mu      sync.Mutex // held while a frame is made

	total *atomic.Int64 // see CountIn
	// state has the number of holders in the upper bits, and the number of bytes in the
	// lower bits: one word, so that both change at once.
	state atomic.Uint64
}

const (
	oneHolder = 1 << 40 // one holder in PreparedMessage.state
	bytesMask = oneHolder - 1
)

// preparedOverhead is the memory of a parcel beside its content, its sender and its
// encodings: its own size, and the rounding of the allocator.
const preparedOverhead = int(unsafe.Sizeof(PreparedMessage{})) + 48

// NewPreparedMessage wraps m.
func NewPreparedMessage(m Message) *PreparedMessage {
	p := &PreparedMessage{Message: m}
	p.state.Store(uint64(preparedOverhead + cap(m.Data) + cap(m.Properties) + len(m.Sender)))
	return p
}

// SetByteCounter sets the counter to which encodings add their bytes if they are made while the
// parcel is held. It must be called before the parcel is shared.
func (p *PreparedMessage) SetByteCounter(total *atomic.Int64) { p.total = total }

// Size returns how many bytes of memory p takes, with the encodings made so far.
// Its topic is not included: a node's parcels of a topic share one string.
func (p *PreparedMessage) Size() int64 { return int64(p.state.Load() & bytesMask) }

// Hold adds a holder that keeps p in memory, and returns how many bytes that adds to the
// memory in use: the size of p for the first holder, otherwise 0.
func (p *PreparedMessage) Hold() (added int64) {
	if n := p.state.Add(oneHolder); n/oneHolder == 1 {
		return int64(n & bytesMask)
	}
	return 0
}

// Release removes a holder, and returns how many bytes are no longer kept.
func (p *PreparedMessage) Release() (freed int64) {
	if n := p.state.Add(^uint64(oneHolder - 1)); n/oneHolder == 0 {
		return int64(n)
	}
	return 0
}

// grow adds n to the size of p.
func (p *PreparedMessage) grow(n int) {
	if p.state.Add(uint64(n))/oneHolder > 0 && p.total != nil {
		p.total.Add(int64(n))
	}
}

// Encoded returns the message in shape s. The first call for s has encode append
// it to an empty slice; encode must be the same function for every call with s.
func (p *PreparedMessage) Encoded(s Encoding, encode func(dst []byte, m *Message) []byte) []byte {
	if f := p.encoded[s].Load(); f != nil {
		return *f
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if f := p.encoded[s].Load(); f != nil {
		return *f
	}
	b := encode(nil, &p.Message)
	p.encoded[s].Store(&b)
	p.grow(cap(b) + encodingOverhead)
	return b
}

// encodingOverhead is the memory of an encoding beside its bytes.
const encodingOverhead = int(unsafe.Sizeof([]byte(nil)))
