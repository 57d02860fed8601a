//go:build linux

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"pubsub/internal/testkit/process"
)

// adminToken is of a broker that lives as long as a soak, on loopback.
const adminToken = "soak"

const (
	// subscriberBuffer is how many bytes of a topic a subscriber may leave unread.
	subscriberBuffer = 256 << 10
	// writeTimeout is after how long a reader that takes nothing is closed; those
	// that only stall do so for less than half of it.
	writeTimeout = 10 * time.Second
	// opsTimeout is how long an answer of the ops listener may take.
	opsTimeout = 30 * time.Second
)

// broker is a broker's process.
type broker struct {
	cmd    *exec.Cmd
	log    string // file that it writes its log to
	addr   string
	ops    string     // URL of its ops listener
	exited chan error // has what Wait returned
}

// startBroker starts a broker that keeps its data below dir, and returns when it
// is ready.
func startBroker(binary, holder, dir string) (*broker, error) {
	b := &broker{log: filepath.Join(dir, "log"), exited: make(chan error, 1)}
	var err error
	if b.addr, _, err = process.FreeAddress(); err != nil {
		return nil, err
	}
	ops, _, err := process.FreeAddress()
	if err != nil {
		return nil, err
	}
	b.ops = "http://" + ops
	log, err := os.Create(b.log)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	b.cmd = exec.Command(binary, "serve", "--listen="+b.addr, "--ops-listen="+ops, "--data-dir="+filepath.Join(dir, "data"),
		"--holder="+holder, "--drain-timeout=2s", "--log-format=json",
		fmt.Sprint("--subscriber-buffer=", subscriberBuffer), fmt.Sprint("--write-timeout=", writeTimeout))
	b.cmd.Env = append(os.Environ(), "PUBSUB_ADMIN_TOKEN="+adminToken)
	b.cmd.Stderr = log
	b.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := b.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { b.exited <- b.cmd.Wait() }()
	for begun := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		if _, err = b.get("/readyz"); err == nil {
			return b, nil
		}
		if time.Since(begun) > 30*time.Second {
			b.kill()
			text, _ := os.ReadFile(b.log)
			return nil, fmt.Errorf("the broker does not get ready: %w\n%s", err, text)
		}
	}
}

// stop has the broker drain, and checks how it ends and what it has logged.
func (b *broker) stop(f *faults) {
	b.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-b.exited:
		if err != nil {
			f.add(faultBroker, "its process has ended with %v", err)
		}
	case <-time.After(20 * time.Second):
		f.add(faultBroker, "its process has not ended 20 s after SIGTERM")
		b.kill()
	}
	log, err := os.ReadFile(b.log)
	if err != nil {
		f.add(faultBroker, "its log cannot be read: %v", err)
	}
	for line := range strings.Lines(string(log)) {
		var entry struct{ Level string }
		if json.Unmarshal([]byte(line), &entry) != nil || entry.Level == "ERROR" {
			f.add(faultBroker, "its log says: %.500s", strings.TrimSpace(line))
		}
	}
}

// kill ends the broker at once.
func (b *broker) kill() {
	b.cmd.Process.Kill()
	<-b.exited
}

// get asks the ops listener.
func (b *broker) get(path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), opsTimeout)
	defer cancel()
	return process.Get(ctx, b.ops+path)
}

func (b *broker) metrics() (process.Metrics, error) {
	ctx, cancel := context.WithTimeout(context.Background(), opsTimeout)
	defer cancel()
	return process.ReadMetrics(ctx, b.ops)
}

// sample is what the broker's process takes at a time, its garbage collected.
type sample struct {
	resident, heap          float64 // bytes
	goroutines, descriptors float64
	connections             float64
	m                       process.Metrics
}

func (b *broker) sample() (s sample, err error) {
	if _, err := b.get("/debug/pprof/heap?gc=1"); err != nil {
		return s, err
	}
	if s.m, err = b.metrics(); err != nil {
		return s, err
	}
	s.heap = s.m.Sum("go_memstats_heap_alloc_bytes")
	s.goroutines = s.m.Sum("go_goroutines")
	s.connections = s.m.Sum("pubsub_connections")
	proc := fmt.Sprintf("/proc/%d/", b.cmd.Process.Pid)
	fds, err := os.ReadDir(proc + "fd")
	if err != nil {
		return s, err
	}
	s.descriptors = float64(len(fds))
	statm, err := os.ReadFile(proc + "statm")
	if err != nil {
		return s, err
	}
	pages, err := strconv.ParseFloat(strings.Fields(string(statm))[1], 64)
	s.resident = pages * float64(os.Getpagesize())
	return s, err
}
