package pubsub

import (
	"sync"
	"sync/atomic"
	"unsafe"
)

// Encoding identifies a wire encoding of a message that several subscribers share.
type Encoding uint8

// NumEncodings is the number of encodings that a [PreparedMessage] has room for.
const NumEncodings = 6

// PreparedMessage is a message on its way to the subscribers of one node, together with
// its wire encodings. Each encoding is made on first use; all subscribers then share it
// and must not change it.
type PreparedMessage struct {
	Message

	// MaxEncodedSize is an upper bound for the length of an encoding, in bytes. It must
	// be set before the message is shared, if at all.
	MaxEncodedSize int

	encoded [NumEncodings]atomic.Pointer[[]byte]
	mu      sync.Mutex // held while an encoding is made

	counter *atomic.Int64 // see SetByteCounter
	// state holds the number of holders in the upper bits and the size in bytes in the
	// lower bits. They are in one word so that they change atomically together.
	state atomic.Uint64
}

const (
	oneHolder = 1 << 40 // one holder in PreparedMessage.state
	bytesMask = oneHolder - 1
)

// preparedOverhead is the memory of a prepared message besides its content, sender and
// encodings: the struct, and the rounding of the allocator.
const preparedOverhead = int(unsafe.Sizeof(PreparedMessage{})) + 48

// encodingOverhead is the memory of an encoding besides its bytes.
const encodingOverhead = int(unsafe.Sizeof([]byte(nil)))

// NewPreparedMessage returns m without encodings.
func NewPreparedMessage(m Message) *PreparedMessage {
	pm := &PreparedMessage{Message: m}
	pm.state.Store(uint64(preparedOverhead + cap(m.Data) + cap(m.Properties) + len(m.Sender)))
	return pm
}

// SetByteCounter sets the counter to which pm adds the size of each encoding that is
// made while pm has holders. It must be called before pm is shared.
func (pm *PreparedMessage) SetByteCounter(counter *atomic.Int64) { pm.counter = counter }

// Size returns the memory that pm takes, in bytes, including the encodings made so far.
// It does not include the topic, because all messages to a topic share its string.
func (pm *PreparedMessage) Size() int64 { return int64(pm.state.Load() & bytesMask) }

// Hold adds a holder, which keeps pm in memory. It returns the number of bytes that this
// adds to the memory in use: the size of pm for the first holder, otherwise 0.
func (pm *PreparedMessage) Hold() (added int64) {
	if n := pm.state.Add(oneHolder); n/oneHolder == 1 {
		return int64(n & bytesMask)
	}
	return 0
}

// Release removes a holder. It returns the number of bytes that this frees: the size of
// pm for the last holder, otherwise 0.
func (pm *PreparedMessage) Release() (freed int64) {
	if n := pm.state.Add(^uint64(oneHolder - 1)); n/oneHolder == 0 {
		return int64(n)
	}
	return 0
}

// grow adds n bytes to the size of pm.
func (pm *PreparedMessage) grow(n int) {
	if pm.state.Add(uint64(n))/oneHolder > 0 && pm.counter != nil {
		pm.counter.Add(int64(n))
	}
}

// Encoded returns the encoding e of the message. The first call for e makes it by calling
// encode with an empty dst. All calls for e must pass the same function.
func (pm *PreparedMessage) Encoded(e Encoding, encode func(dst []byte, m *Message) []byte) []byte {
	if b := pm.encoded[e].Load(); b != nil {
		return *b
	}
	pm.mu.Lock()
	defer pm.mu.Unlock()
	if b := pm.encoded[e].Load(); b != nil {
		return *b
	}
	b := encode(nil, &pm.Message)
	pm.encoded[e].Store(&b)
	pm.grow(cap(b) + encodingOverhead)
	return b
}
