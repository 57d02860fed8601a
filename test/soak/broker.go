//go:build linux

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"pubsub/internal/testkit/history"
	"pubsub/internal/testkit/process"
)

// adminToken is the token of a broker that lives as long as a soak, on loopback.
const adminToken = "soak"

const (
	// subscriberBuffer is how many bytes of a topic a subscriber may leave unread.
	subscriberBuffer = 256 << 10
	// writeTimeout is the time after which the broker closes a connection that accepts no data.
	// Subscribers that only stall read again within half of it.
	writeTimeout = 10 * time.Second
	// opsTimeout bounds how long the ops listener may take to answer.
	opsTimeout = 30 * time.Second
)

// broker is the broker's process.
type broker struct{ *process.Broker }

// startBroker starts a broker with its data below dir, and returns when it is ready.
func startBroker(binary, holder, dir string) (*broker, error) {
	b, err := process.Serve{Binary: binary, AdminToken: adminToken, Flags: []string{
		"--data-dir=" + filepath.Join(dir, "data"), "--holder=" + holder, "--drain-timeout=2s", "--log-format=json",
		fmt.Sprint("--subscriber-buffer=", subscriberBuffer), fmt.Sprint("--write-timeout=", writeTimeout),
	}}.Start(context.Background())
	if err != nil {
		return nil, err
	}
	return &broker{b}, b.WaitReady(opsTimeout)
}

// stop makes the broker drain, and checks its exit status and its log.
func (b *broker) stop(v *history.Violations) {
	if err := b.Terminate(20 * time.Second); err != nil {
		v.Add(history.Broker, "after SIGTERM: %v", err)
	}
	for line := range strings.Lines(b.Output()) {
		var entry struct{ Level string }
		if json.Unmarshal([]byte(line), &entry) != nil || entry.Level == "ERROR" {
			v.Add(history.Broker, "the log has: %.500s", strings.TrimSpace(line))
		}
	}
}

// sample is the resources of the broker's process, after it has collected its garbage.
type sample struct {
	resident, heap          float64 // bytes
	goroutines, descriptors float64
	connections             float64
	m                       process.Metrics
}

func (b *broker) sample() (s sample, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), opsTimeout)
	defer cancel()
	if _, err := process.Get(ctx, b.Ops+"/debug/pprof/heap?gc=1"); err != nil {
		return s, err
	}
	if s.m, err = process.ReadMetrics(ctx, b.Ops); err != nil {
		return s, err
	}
	s.heap = s.m.Sum("go_memstats_heap_alloc_bytes")
	s.goroutines = s.m.Sum("go_goroutines")
	s.connections = s.m.Sum("pubsub_connections")
	files, err := b.OpenFiles()
	if err != nil {
		return s, err
	}
	s.descriptors = float64(files)
	statm, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", b.Pid()))
	if err != nil {
		return s, err
	}
	pages, err := strconv.ParseFloat(strings.Fields(string(statm))[1], 64)
	s.resident = pages * float64(os.Getpagesize())
	return s, err
}
