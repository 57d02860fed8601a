//go:build linux

package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"pubsub/internal/testkit/process"
)

// natsRole is the argument that makes this program a NATS server.
const natsRole = "nats"

// startNATS starts a NATS server that keeps its files in dir, and ends when ctx is
// done.
func startNATS(ctx context.Context, dir string) (*process.Process, error) {
	addr, port, err := process.FreeAddress()
	if err != nil {
		return nil, err
	}
	profile, profilePort, err := process.FreeAddress()
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p, err := process.Start(exec.CommandContext(ctx, self, natsRole, port, profilePort, dir), addr)
	if err != nil {
		return nil, err
	}
	p.Profile = "http://" + profile
	return p, nil
}

// serveNATS is the process of a NATS server as docs/cluster.md wants it: its ports
// and its directory are given. It ends by a signal.
func serveNATS(args []string) error {
	if len(args) != 3 {
		return errors.New("PORT PROFILE-PORT DIRECTORY expected")
	}
	port, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	profilePort, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	s, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: port, ProfPort: profilePort,
		JetStream: true, SyncAlways: true, StoreDir: args[2], NoLog: true,
	})
	if err != nil {
		return err
	}
	s.Start()
	if !s.ReadyForConnections(10 * time.Second) {
		return errors.New("it does not start")
	}
	s.WaitForShutdown()
	return nil
}
