//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// adminToken is of brokers that live as long as a measurement, on loopback.
const adminToken = "bench"

// broker is a broker's process.
type broker struct {
	cmd       *exec.Cmd
	log       bytes.Buffer
	addr, ops string
}

func build(dir string) (string, error) {
	binary := filepath.Join(dir, "pubsub")
	out, err := exec.Command("go", "build", "-o", binary, "pubsub/cmd/pubsub").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return binary, nil
}

// start starts a broker: in memory, or on the directory dir.
func start(binary, holder, dir string) (*broker, error) {
	b := &broker{}
	var err error
	if b.addr, err = freeAddress(); err != nil {
		return nil, err
	}
	if b.ops, err = freeAddress(); err != nil {
		return nil, err
	}
	store := "--in-memory"
	if dir != "" {
		store = "--data-dir=" + dir
	}
	b.cmd = exec.Command(binary, "serve", "--listen="+b.addr, "--ops-listen="+b.ops, store, "--holder="+holder, "--drain-timeout=0s")
	b.cmd.Env = append(os.Environ(), "PUBSUB_ADMIN_TOKEN="+adminToken)
	b.cmd.Stderr = &b.log
	if err := b.cmd.Start(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for {
		if _, err = b.get(ctx, "/readyz"); err == nil {
			return b, nil
		}
		select {
		case <-ctx.Done():
			b.stop()
			return nil, fmt.Errorf("the broker does not get ready: %w\n%s", err, b.log.Bytes())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (b *broker) stop() {
	b.cmd.Process.Kill()
	b.cmd.Wait()
}

func freeAddress() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer ln.Close()
	return ln.Addr().String(), nil
}

// get asks the ops listener.
func (b *broker) get(ctx context.Context, path string) ([]byte, error) {
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

// metric returns the sum of the samples of a metric whose labels contain all of
// with.
func (b *broker) metric(name string, with ...string) (sum float64, err error) {
	body, err := b.get(context.Background(), "/metrics")
	if err != nil {
		return 0, err
	}
lines:
	for s := bufio.NewScanner(bytes.NewReader(body)); s.Scan(); {
		sample, value, ok := strings.Cut(s.Text(), " ")
		if base, _, _ := strings.Cut(sample, "{"); !ok || base != name {
			continue
		}
		for _, w := range with {
			if !strings.Contains(sample, w) {
				continue lines
			}
		}
		v, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return 0, err
		}
		sum += v
	}
	return sum, nil
}

// memory is what a process takes, in bytes.
type memory struct{ rss, inUse float64 }

// memory collects the broker's garbage first.
func (b *broker) memory() (m memory, err error) {
	for range 3 {
		if _, err := b.get(context.Background(), "/debug/pprof/heap?gc=1"); err != nil {
			return m, err
		}
		time.Sleep(300 * time.Millisecond)
	}
	for _, name := range []string{"go_memstats_heap_inuse_bytes", "go_memstats_stack_inuse_bytes"} {
		v, err := b.metric(name)
		if err != nil {
			return m, err
		}
		m.inUse += v
	}
	statm, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", b.cmd.Process.Pid))
	if err != nil {
		return m, err
	}
	fields := strings.Fields(string(statm))
	pages, err := strconv.ParseFloat(fields[1], 64)
	m.rss = pages * float64(os.Getpagesize())
	return m, err
}

// cpu returns the time that the process has run, in user mode and in the kernel
// (proc_pid_stat(5), fields 14 and 15).
func (b *broker) cpu() (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", b.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(rest)
	var ticks int
	for _, f := range fields[11:13] {
		n, err := strconv.Atoi(f)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	const perSecond = 100 // USER_HZ, on every Linux that Go runs on
	return time.Duration(ticks) * time.Second / perSecond, nil
}

func kernel() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(u.Release[:])
}
