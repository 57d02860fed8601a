//go:build linux

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"pubsub/bench/internal/load"
	"pubsub/internal/testkit/process"
)

// mosquitto is Debian's package mosquitto, with MQTT 5.0. Its publisher uses TCP.
type mosquitto struct {
	overWebSocket bool // subscribers use WebSockets
	binary        string
}

func (t *mosquitto) prepare(*options, string) (version string, err error) {
	if t.binary, err = find("mosquitto"); err != nil {
		return "", fmt.Errorf("%w; apt-get install mosquitto", err)
	}
	out, _ := exec.Command(t.binary, "-h").Output() // exits with 3
	version, _, _ = strings.Cut(string(out), "\n")
	return version, nil
}

const mosquittoConf = `
allow_anonymous true
persistence false
sys_interval 0
log_dest stderr
log_type error
set_tcp_nodelay true
listener %s 127.0.0.1
protocol mqtt
listener %s 127.0.0.1
protocol websockets
socket_domain ipv4
`

func (t *mosquitto) start(dir string) (*server, error) {
	addrs, ports, err := process.FreeAddresses(2)
	if err != nil {
		return nil, err
	}
	conf := filepath.Join(dir, "mosquitto.conf")
	if err := os.WriteFile(conf, fmt.Appendf(nil, mosquittoConf, ports[0], ports[1]), 0o600); err != nil {
		return nil, err
	}
	s, addr := &server{}, addrs[0]
	if t.overWebSocket {
		addr = addrs[1]
	}
	s.handshakes = func(n int, topic func(int) string) ([][]load.Step, error) {
		return load.Handshakes(n, func(i int) []load.Step {
			sub := mqttSubscribe(clientID(topic(i), i), "", topic(i))
			if t.overWebSocket {
				return overWebSocket("/mqtt", sub)
			}
			return sub
		}), nil
	}
	s.publisher = func(topic string, size int) (*load.Publisher, error) {
		return mqttPublisher(addrs[0], "", topic, size, false)
	}
	s.Process, err = process.Start(exec.Command(t.binary, "-c", conf), addr)
	return s, err
}
