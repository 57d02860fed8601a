package server

import (
	"pubsub"
	"pubsub/internal/sse"
)

// The shared encodings of a message.
const (
	encodingSSE pubsub.Encoding = iota
	encodingSSEDurable
	encodingEnvelope
	encodingEnvelopeDurable
	encodingMQTT
	encodingMQTTRetain
	numEncodings = iota
)

// This compiles only if [pubsub.NumEncodings] is the number of these encodings.
var _ [pubsub.NumEncodings]struct{} = [numEncodings]struct{}{}

// sseEncoders are the encoders of server-sent events. Each event is a chunk of HTTP/1.1; see
// sseStream.framed for other versions.
var sseEncoders = [...]func(dst []byte, m *pubsub.Message) []byte{
	encodingSSE:             sse.Chunked(sse.AppendMessage),
	encodingSSEDurable:      sse.Chunked(sse.AppendMessageWithID),
	encodingEnvelope:        sse.Chunked(sse.AppendEnvelope),
	encodingEnvelopeDurable: sse.Chunked(sse.AppendEnvelopeWithID),
}

// The names of the transports for Events.
const (
	transportSSE  = "sse"
	transportMQTT = "mqtt"
	transportHTTP = "http"
)
