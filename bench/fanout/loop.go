//go:build linux

package main

import (
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"pubsub/bench/internal/load"
	"pubsub/internal/testkit/process"
)

//go:embed loop/loop.c
var loopSource []byte

// loop is the baseline: loop/loop.c, which only writes to an array of sockets.
type loop struct{ binary string }

func (l *loop) prepare(_ *options, dir string) (version string, err error) {
	source := filepath.Join(dir, "loop.c")
	if err := os.WriteFile(source, loopSource, 0o600); err != nil {
		return "", err
	}
	l.binary = filepath.Join(dir, "loop")
	if out, err := exec.Command("cc", "-O2", "-o", l.binary, source).CombinedOutput(); err != nil {
		return "", fmt.Errorf("cc: %w\n%s; apt-get install gcc libc6-dev", err, out)
	}
	out, err := exec.Command("cc", "--version").Output()
	version, _, _ = strings.Cut(string(out), "\n")
	return "write(2) to an array of sockets, " + version, err
}

func (l *loop) start(string) (*server, error) {
	addr, port, err := process.FreeAddress()
	if err != nil {
		return nil, err
	}
	s := &server{}
	s.handshakes = func(n int, topic func(int) string) ([][]load.Step, error) {
		return load.Handshakes(n, func(i int) []load.Step { return load.SSESubscribe("/events?topic="+topic(i), "") }), nil
	}
	s.publisher = func(topic string, size int) (*load.Publisher, error) {
		return load.Post(addr, "/events?topic="+topic, "", size)
	}
	s.Process, err = process.Start(exec.Command(l.binary, port), addr)
	return s, err
}
