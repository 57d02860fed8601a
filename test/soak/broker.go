//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"pubsub"
)

// adminToken is of a broker that lives as long as a soak, on loopback.
const adminToken = "soak"

const (
	// subscriberBuffer is how many bytes of a topic a subscriber may leave unread.
	subscriberBuffer = 256 << 10
	// writeTimeout is after how long a reader that takes nothing is closed; those
	// that only stall do so for less than half of it.
	writeTimeout = 10 * time.Second
)

// broker is a broker's process.
type broker struct {
	cmd       *exec.Cmd
	log       string // file that it writes its log to
	addr, ops string
	exited    chan error // has what Wait returned
}

func build(dir string, race bool) (string, error) {
	binary := filepath.Join(dir, "pubsub")
	args := []string{"build", "-o", binary}
	if race {
		args = append(args, "-race")
	}
	out, err := exec.Command("go", append(args, "pubsub/cmd/pubsub")...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return binary, nil
}

// startBroker starts a broker that keeps its data below dir, and returns when it
// is ready.
func startBroker(binary, holder, dir string) (*broker, error) {
	b := &broker{log: filepath.Join(dir, "log"), exited: make(chan error, 1)}
	var err error
	if b.addr, err = freeAddress(); err != nil {
		return nil, err
	}
	if b.ops, err = freeAddress(); err != nil {
		return nil, err
	}
	log, err := os.Create(b.log)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	b.cmd = exec.Command(binary, "serve", "--listen="+b.addr, "--ops-listen="+b.ops, "--data-dir="+filepath.Join(dir, "data"),
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

func freeAddress() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer ln.Close()
	return ln.Addr().String(), nil
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

// newKey creates a signing key.
func (b *broker) newKey() (pubsub.Key, error) {
	req, err := http.NewRequest(http.MethodPost, "http://"+b.addr+"/admin/keys", nil)
	if err != nil {
		return pubsub.Key{}, err
	}
	req.Header.Set("Fastly-Key", adminToken)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return pubsub.Key{}, err
	}
	defer resp.Body.Close()
	var k struct{ ID, Value string }
	err = json.NewDecoder(resp.Body).Decode(&k)
	return pubsub.Key{ID: k.ID, Value: k.Value}, err
}

// get asks the ops listener.
func (b *broker) get(path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+b.ops+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", path, resp.Status)
	}
	return body, err
}

// metrics are the samples of a broker.
type metrics map[string]float64

func (b *broker) metrics() (metrics, error) {
	body, err := b.get("/metrics")
	if err != nil {
		return nil, err
	}
	m := make(metrics)
	for s := bufio.NewScanner(bytes.NewReader(body)); s.Scan(); {
		sample, text, ok := strings.Cut(s.Text(), " ")
		if !ok || sample == "#" {
			continue
		}
		if m[sample], err = strconv.ParseFloat(text, 64); err != nil {
			return nil, fmt.Errorf("metrics: %q: %w", s.Text(), err)
		}
	}
	return m, nil
}

// sum returns the sum of the samples of a metric whose labels contain all of with.
func (m metrics) sum(name string, with ...string) (sum float64) {
samples:
	for sample, v := range m {
		if base, _, _ := strings.Cut(sample, "{"); base != name {
			continue
		}
		for _, w := range with {
			if !strings.Contains(sample, w) {
				continue samples
			}
		}
		sum += v
	}
	return sum
}

// sample is what the broker's process takes at a time, its garbage collected.
type sample struct {
	resident, heap          float64 // bytes
	goroutines, descriptors float64
	connections             float64
	m                       metrics
}

func (b *broker) sample() (s sample, err error) {
	if _, err := b.get("/debug/pprof/heap?gc=1"); err != nil {
		return s, err
	}
	if s.m, err = b.metrics(); err != nil {
		return s, err
	}
	s.heap = s.m.sum("go_memstats_heap_alloc_bytes")
	s.goroutines = s.m.sum("go_goroutines")
	s.connections = s.m.sum("pubsub_connections")
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
