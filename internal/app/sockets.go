package app

import (
	"math"

	"pubsub/internal/config"
	"pubsub/internal/rlimit"
)

// reservedDescriptors is how many descriptors clients leave for all other uses: files of the
// store, the ops listener and the connection to NATS.
const reservedDescriptors = 512

// maxSockets returns the limit of cfg on the connections of clients, or 0 for no limit.
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

// socketsWithin returns how many connections fit within a limit on descriptors, less a
// reserve of reservedDescriptors, or of half the limit if that is less.
func socketsWithin(limit uint64) int {
	return int(min(limit-min(reservedDescriptors, limit/2), math.MaxInt32))
}

// maxOpsSockets returns the limit on connections of the ops listener, 16 to 64. They belong to
// the reserve that max-sockets leaves, so operators can connect at any time.
func maxOpsSockets() int {
	limit, ok := rlimit.Descriptors()
	if !ok {
		return 64
	}
	return int(min(64, max(16, limit/16)))
}

// checkDescriptors logs a warning if clients may take the descriptors of the reserve.
func (n *node) checkDescriptors(cfg *config.Config) {
	limit, ok := rlimit.Descriptors()
	if !ok || cfg.MaxSockets <= socketsWithin(limit) {
		return
	}
	n.log.Warn("descriptor reserve too small", "max_sockets", cfg.MaxSockets, "open_files_limit", limit,
		"advice", "lower max-sockets or raise the limit on open files, because the store needs some")
}
