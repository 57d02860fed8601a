//go:build linux

package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"pubsub/bench/internal/load"
	"pubsub/internal/testkit/process"
)

// nats is nats-server, installed as a module, with its own protocol over TCP.
type nats struct{ binary string }

const natsModule = "github.com/nats-io/nats-server/v2@v2.15.2"

func (t *nats) prepare(_ *options, dir string) (version string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "install", natsModule)
	cmd.Env = append(os.Environ(), "GOBIN="+dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go install %s: %w\n%s", natsModule, err, out)
	}
	t.binary = filepath.Join(dir, "nats-server")
	out, err := exec.Command(t.binary, "--version").Output()
	return strings.TrimSpace(string(out)), err
}

// No pings are sent during a measurement, because nothing would answer them.
const natsConf = `
listen: %q
prof_port: %s
ping_interval: "1h"
`

func (t *nats) start(dir string) (*server, error) {
	addrs, ports, err := process.FreeAddresses(2)
	if err != nil {
		return nil, err
	}
	conf := filepath.Join(dir, "nats.conf")
	if err := os.WriteFile(conf, fmt.Appendf(nil, natsConf, addrs[0], ports[1]), 0o600); err != nil {
		return nil, err
	}
	s := &server{}
	s.handshakes = func(n int, topic func(int) string) ([][]load.Step, error) {
		return load.Handshakes(n, func(i int) []load.Step { return natsConnect("SUB " + topic(i) + " 1\r\n") }), nil
	}
	s.publisher = func(topic string, size int) (*load.Publisher, error) {
		nc, err := net.Dial("tcp", addrs[0])
		if err != nil {
			return nil, err
		}
		if err := load.ShakeHands(nc, natsConnect("")); err != nil {
			nc.Close()
			return nil, err
		}
		return load.NewPublisher(nc, fmt.Appendf(nil, "PUB %s %d\r\n", topic, size), size, "\r\n"), nil
	}
	if s.Process, err = process.Start(exec.Command(t.binary, "-c", conf), addrs[0]); err != nil {
		return nil, err
	}
	s.Profile = "http://" + addrs[1]
	return s, nil
}

// natsConnect connects, and then sends more.
func natsConnect(more string) []load.Step {
	return []load.Step{
		{Answer: load.Until("\r\n")}, // INFO
		{Send: []byte(`CONNECT {"verbose":false,"pedantic":false}` + "\r\n" + more + "PING\r\n"), Answer: load.Until("PONG\r\n")},
	}
}
