//go:build linux

package main

import (
	"os/exec"
	"time"

	"pubsub/bench/internal/load"
	"pubsub/internal/testkit/process"
)

// target is a broker, ours or another, or the baseline.
type target interface {
	// prepare finds or builds the program and returns its version. Its files go to dir, which
	// stays until the end of the run.
	prepare(o *options, dir string) (version string, err error)
	// start starts the program on free loopback ports. Its files go to dir, which is empty.
	start(dir string) (*server, error)
}

// server is a running target.
type server struct {
	*process.Process
	// handshakes returns the handshakes of n subscribers. topic returns the topic of each.
	handshakes func(n int, topic func(i int) string) ([][]load.Step, error)
	publisher  func(topic string, size int) (*load.Publisher, error)
}

// connect connects n subscribers, of which each has the topic that topic returns. It returns how
// long that took.
func (s *server) connect(n int, topic func(i int) string, stamped bool) (*load.Pool, time.Duration, error) {
	hs, err := s.handshakes(n, topic)
	if err != nil {
		return nil, 0, err
	}
	return load.Connect(s.Addr, hs, stamped)
}

// find returns the path of a program, which may be in /usr/sbin.
func find(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err == nil {
		return path, nil
	}
	if path, sbinErr := exec.LookPath("/usr/sbin/" + name); sbinErr == nil {
		return path, nil
	}
	return "", err
}
