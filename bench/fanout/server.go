//go:build linux

package main

import (
	"os/exec"

	"pubsub/bench/internal/load"
	"pubsub/internal/testkit/process"
)

// target is what is measured: a broker of ours or of others, or the baseline.
type target interface {
	// prepare finds or builds what start starts, and says which version it is. Its
	// files go to dir, which stays until the end of the run.
	prepare(o *options, dir string) (version string, err error)
	// start starts it on loopback ports that are free. Its files go to dir, which is
	// empty.
	start(dir string) (*server, error)
}

// server is a target that runs.
type server struct {
	*process.Process
	// handshakes returns those of n subscribers, each of its own topic or of the
	// same.
	handshakes func(n int, topic func(i int) string) ([][]load.Step, error)
	publisher  func(topic string, size int) (*load.Publisher, error)
}

// find returns the path of a program, which may be an administrator's.
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
