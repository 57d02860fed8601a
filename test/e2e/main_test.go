//go:build e2e

// Package e2e runs real clients against the real binary: curl, PyJWT, MQTT.js in
// Node and in Chromium, the browser's own EventSource and fetch, event-source
// libraries of JavaScript and Python, reverse proxies, Eclipse Paho's clients for Go,
// Python and Java, and rumqttc. "make e2e" installs them and runs it. All traffic
// stays on the loopback interface. Nothing is ever skipped: a missing client is a
// failure.
package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"testing"
	"time"
)

// limit bounds the whole run, so that a hanging client ends in a report and in
// no process left behind. go test's own -timeout would end this process without
// its descendants.
const limit = 10 * time.Minute

// binary is the path of the pubsub command under test.
var binary string

func TestMain(m *testing.M) { os.Exit(runTests(m)) }

func runTests(m *testing.M) int {
	dir, err := os.MkdirTemp("", "pubsub-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	// The temporary files of clients are removed with the directory.
	os.Setenv("TMPDIR", dir)
	cleanUp := func() {
		endDescendants()
		os.RemoveAll(dir)
	}
	defer cleanUp()
	if err := adoptOrphans(); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	watchdog := time.AfterFunc(limit, func() {
		cleanUp()
		debug.SetTraceback("all")
		panic(fmt.Sprintf("e2e: not done after %v", limit))
	})
	defer watchdog.Stop()

	binary = filepath.Join(dir, "pubsub")
	build := exec.Command("go", "build", "-o", binary, "pubsub/cmd/pubsub")
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "e2e: go build pubsub/cmd/pubsub:", err)
		return 1
	}
	return m.Run()
}
