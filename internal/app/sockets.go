package app

import (
	"math"

	"pubsub/internal/config"
	"pubsub/internal/rlimit"
)

// reservedDescriptors is how many descriptors clients leave for all other uses: the
// store's files, the ops listener, the connection to NATS.
const reservedDescriptors = 512

// maxSockets returns the bound that cfg sets on clients' connections, or 0 for none.
func maxSockets(cfg *config.Config) int {
	if cfg.MaxSockets != 0 {
		return cfg.MaxSockets
	}
	limit, ok := rlimit.Descriptors()
	if !ok {
		return 0
	}
	return socketsWithin(limit)
}

// socketsWithin returns how many connections leave the reserve of a limit on
// descriptors, or half of the limit if that is less.
func socketsWithin(limit uint64) int {
	return int(min(limit-min(reservedDescriptors, limit/2), math.MaxInt32))
}

// maxOpsSockets returns the bound on the connections of the ops listener: 16 to 64. They
// come out of the reserve that max-sockets leaves, so operators can connect at any time.
func maxOpsSockets() int {
	limit, ok := rlimit.Descriptors()
	if !ok {
		return 64
	}
	return int(min(64, max(16, limit/16)))
}

// warnOfSockets warns if clients may take all descriptors of the process.
func (n *node) warnOfSockets(cfg *config.Config) {
	limit, ok := rlimit.Descriptors()
	if !ok || cfg.MaxSockets <= socketsWithin(limit) {
		return
	}
	n.log.Warn("too few descriptors reserved",
		"max-sockets", cfg.MaxSockets, "descriptors", limit,
		"advice", "lower max-sockets, or raise the limit on open files: the store needs some for itself")
}
