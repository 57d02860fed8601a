//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
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
	addr string // where subscribers connect to
	// handshakes returns those of n subscribers, each of its own topic or of the
	// same.
	handshakes func(n int, topic func(i int) string) ([][]step, error)
	publisher  func(topic string, size int) (*publisher, error)
	// profile is the address of a Go program's /debug/pprof/, which can collect
	// garbage; empty for others.
	profile string

	cmd    *exec.Cmd
	output bytes.Buffer
}

// readyTimeout is how long a target may take to begin to listen.
const readyTimeout = 10 * time.Second

// run starts cmd and returns when it accepts connections. The process ends with
// ours, whatever ends that.
func (s *server) run(cmd *exec.Cmd) error {
	s.cmd = cmd
	cmd.Stdout, cmd.Stderr = &s.output, &s.output
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		return err
	}
	for deadline := time.Now().Add(readyTimeout); ; time.Sleep(10 * time.Millisecond) {
		nc, err := net.Dial("tcp", s.addr)
		if err == nil {
			return nc.Close()
		}
		if time.Now().After(deadline) {
			s.stop()
			return fmt.Errorf("%s does not listen: %w\n%s", cmd.Path, err, s.output.Bytes())
		}
	}
}

// stop ends the processes; what they still hold is no concern of theirs.
func (s *server) stop() {
	all := s.processes()
	s.cmd.Process.Signal(syscall.SIGTERM)
	kill := time.AfterFunc(2*time.Second, func() {
		for _, pid := range all {
			syscall.Kill(pid, syscall.SIGKILL)
		}
	})
	defer kill.Stop()
	s.cmd.Wait()
}

// processes returns the server's process and its children.
func (s *server) processes() []int {
	pids := []int{s.cmd.Process.Pid}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, name := range stats {
		b, err := os.ReadFile(name)
		if err != nil {
			continue // has ended
		}
		_, rest, _ := strings.Cut(string(b), ") ")
		if fields := strings.Fields(rest); len(fields) > 1 && fields[1] == strconv.Itoa(pids[0]) {
			if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name))); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// cpu returns the time that the processes have run, in user mode and in the
// kernel.
func (s *server) cpu() (time.Duration, error) {
	var sum time.Duration
	for _, pid := range s.processes() {
		var ts unix.Timespec
		// The clock of another process: clock_getcpuclockid(3).
		const processClock = 2
		if err := unix.ClockGettime(^int32(pid)<<3|processClock, &ts); err != nil {
			return 0, fmt.Errorf("CPU time of process %d: %w", pid, err)
		}
		sum += time.Duration(ts.Nano())
	}
	return sum, nil
}

// memory returns the resident memory of the processes in bytes, once Go programs
// have collected their garbage. A page that two processes share counts once.
func (s *server) memory() (float64, error) {
	if s.profile != "" {
		// What is pooled goes with the second collection; the runtime takes a moment to
		// give back what is free.
		for range 3 {
			if _, err := get(context.Background(), s.profile+"/debug/pprof/heap?gc=1"); err != nil {
				return 0, err
			}
			time.Sleep(300 * time.Millisecond)
		}
	}
	var sum float64
	for _, pid := range s.processes() {
		kib, err := proportional(pid)
		if err != nil {
			return 0, err
		}
		sum += kib * 1024
	}
	return sum, nil
}

// proportional returns the proportional set size of a process in KiB
// (proc_pid_smaps(5)).
func proportional(pid int) (float64, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if kib, ok := strings.CutPrefix(lines.Text(), "Pss:"); ok {
			return strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(kib, "kB")), 64)
		}
	}
	return 0, errors.Join(fmt.Errorf("no Pss in %s", f.Name()), lines.Err())
}

func freeAddress() (addr, port string, err error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", "", err
	}
	defer ln.Close()
	addr = ln.Addr().String()
	_, port, err = net.SplitHostPort(addr)
	return addr, port, err
}

// get returns the body of what the address names.
func get(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var body bytes.Buffer
	_, err = body.ReadFrom(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", url, resp.Status)
	}
	return body.Bytes(), err
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
