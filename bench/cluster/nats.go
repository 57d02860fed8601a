//go:build linux

package main

import (
	"context"
	"fmt"

	"pubsub/internal/testkit/natsserver"
	"pubsub/internal/testkit/process"
)

// startNATS starts a NATS server as docs/cluster.md recommends it, with its files in dir. It ends
// when ctx is done.
func startNATS(ctx context.Context, dir string) (*process.Process, error) {
	addrs, ports, err := process.FreeAddresses(2)
	if err != nil {
		return nil, err
	}
	config := fmt.Sprintf("listen: %s\nprof_port: %s\njetstream { store_dir: %q, sync_interval: always }\n", addrs[0], ports[1], dir)
	p, err := natsserver.Start(ctx, dir, config, addrs[0])
	if err != nil {
		return nil, err
	}
	p.Profile = "http://" + addrs[1]
	return p, nil
}
