package server

import (
	"pubsub"
	"pubsub/internal/sse"
)

// The encodings of a message that subscribers share.
const (
	encodingSSE pubsub.Encoding = iota
	encodingSSEDurable
	encodingEnvelope
	encodingEnvelopeDurable
	encodingMQTT
	encodingMQTTRetain
	numEncodings = iota
)

// The root package has room for exactly these encodings: otherwise this does not compile.
var _ [pubsub.NumEncodings]struct{} = [numEncodings]struct{}{}

// sseEncoders make the encodings of server-sent events. Each event is a chunk of
// HTTP/1.1; see sseStream.framed for other versions.
var sseEncoders = [...]func(dst []byte, m *pubsub.Message) []byte{
	encodingSSE:             sse.Chunked(sse.AppendMessage),
	encodingSSEDurable:      sse.Chunked(sse.AppendMessageWithID),
	encodingEnvelope:        sse.Chunked(sse.AppendEnvelope),
	encodingEnvelopeDurable: sse.Chunked(sse.AppendEnvelopeWithID),
}

// The names of the transports, as Events has them.
const (
	transportSSE  = "sse"
	transportMQTT = "mqtt"
	transportHTTP = "http"
)
