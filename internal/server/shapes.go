package server

import (
	"pubsub"
	"pubsub/internal/sse"
)

// The encodings of a message that subscribers share.
const (
	shapeSSE pubsub.Encoding = iota
	shapeSSEDurable
	shapeEnvelope
	shapeEnvelopeDurable
	shapeMQTT
	shapeMQTTRetain
)

// sseEncoders make the shapes of server-sent events. Each event is a chunk of
// HTTP/1.1; see sseStream.framed for other versions.
var sseEncoders = [...]func(dst []byte, m *pubsub.Message) []byte{
	shapeSSE:             sse.Chunked(sse.AppendMessage),
	shapeSSEDurable:      sse.Chunked(sse.AppendMessageWithID),
	shapeEnvelope:        sse.Chunked(sse.AppendEnvelope),
	shapeEnvelopeDurable: sse.Chunked(sse.AppendEnvelopeWithID),
}

// The names of the transports, as Events has them.
const (
	transportSSE  = "sse"
	transportMQTT = "mqtt"
	transportHTTP = "http"
)
