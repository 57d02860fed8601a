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
)

// nats is nats-server, built from the module registry; its own protocol over TCP.
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

// Pings would have to be answered; there are none while a measurement lasts.
const natsConf = `
listen: %q
prof_port: %s
ping_interval: "1h"
`

func (t *nats) start(dir string) (*server, error) {
	addr, _, err := freeAddress()
	if err != nil {
		return nil, err
	}
	profile, profilePort, err := freeAddress()
	if err != nil {
		return nil, err
	}
	conf := filepath.Join(dir, "nats.conf")
	if err := os.WriteFile(conf, fmt.Appendf(nil, natsConf, addr, profilePort), 0o600); err != nil {
		return nil, err
	}
	s := &server{addr: addr, profile: "http://" + profile}
	s.handshakes = func(n int, topic func(int) string) ([][]step, error) {
		return handshakes(n, func(i int) []step { return natsConnect("SUB " + topic(i) + " 1\r\n") }), nil
	}
	s.publisher = func(topic string, size int) (*publisher, error) {
		nc, err := net.Dial("tcp", addr)
		if err != nil {
			return nil, err
		}
		if err := shakeHands(nc, natsConnect("")); err != nil {
			nc.Close()
			return nil, err
		}
		return newPublisher(nc, fmt.Appendf(nil, "PUB %s %d\r\n", topic, size), size, "\r\n"), nil
	}
	return s, s.run(exec.Command(t.binary, "-c", conf))
}

// natsConnect says hello, and then what else there is to say.
func natsConnect(more string) []step {
	return []step{
		{nil, until("\r\n")}, // INFO
		{[]byte(`CONNECT {"verbose":false,"pedantic":false}` + "\r\n" + more + "PING\r\n"), until("PONG\r\n")},
	}
}
