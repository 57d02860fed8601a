package server

import "pubsub"

// The encodings of a message that subscribers share.
const (
	shapeSSE pubsub.Shape = iota
	shapeSSEDurable
	shapeEnvelope
	shapeEnvelopeDurable
	shapeMQTT
	shapeMQTTRetain
)

// The names of the transports, as Events has them.
const (
	transportSSE  = "sse"
	transportMQTT = "mqtt"
	transportHTTP = "http"
)
