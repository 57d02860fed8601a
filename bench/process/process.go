//go:build linux

// Package process runs brokers and other servers as processes of their own, for
// benchmarks and tests that look at them from outside: what they cost, what they
// count, and how they end.
package process

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Process is a server that runs, with its children.
type Process struct {
	// immutable
	Addr string // where it listens, host and port
	// Profile is the URL of a Go program's ops listener, whose /debug/pprof/ can
	// collect garbage; empty for others.
	Profile string

	cmd    *exec.Cmd
	exited chan struct{} // closed when the process has ended

	output bytes.Buffer // its standard output and error; read when exited is closed
	err    error        // how it has ended; read when exited is closed
}

// readyTimeout is how long a server may take to begin to listen.
const readyTimeout = 10 * time.Second

// Start starts cmd and returns when it accepts connections at addr.
func Start(cmd *exec.Cmd, addr string) (*Process, error) {
	p, err := Launch(cmd)
	if err != nil {
		return nil, err
	}
	p.Addr = addr
	for deadline := time.Now().Add(readyTimeout); ; {
		nc, err := net.Dial("tcp", p.Addr)
		if err == nil {
			nc.Close()
			return p, nil
		}
		select {
		case <-p.exited:
			return nil, fmt.Errorf("%s has ended: %w\n%s", cmd.Path, p.err, p.output.Bytes())
		case <-time.After(10 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			p.Stop()
			return nil, fmt.Errorf("%s does not listen: %w\n%s", cmd.Path, err, p.output.Bytes())
		}
	}
}

// Launch starts cmd, which may not listen at all. The process ends with ours,
// whatever ends that. Who reads its standard output has set that before.
func Launch(cmd *exec.Cmd) (*Process, error) {
	p := &Process{cmd: cmd, exited: make(chan struct{})}
	if cmd.Stdout == nil {
		cmd.Stdout = &p.output
	}
	cmd.Stderr = &p.output
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		p.err = cmd.Wait()
		close(p.exited)
	}()
	return p, nil
}

// Stop ends the process and its children; what they still hold is no concern of
// theirs.
func (p *Process) Stop() {
	all := p.pids()
	p.cmd.Process.Signal(syscall.SIGTERM)
	kill := time.AfterFunc(2*time.Second, func() {
		for _, pid := range all {
			syscall.Kill(pid, syscall.SIGKILL)
		}
	})
	defer kill.Stop()
	<-p.exited
}

// pids returns the process and its children.
func (p *Process) pids() []int {
	pids := []int{p.cmd.Process.Pid}
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

// CPU returns the time that the process and its children have run, in user mode
// and in the kernel.
func (p *Process) CPU() (time.Duration, error) {
	var sum time.Duration
	for _, pid := range p.pids() {
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

// Memory returns the resident memory of the process and its children in bytes,
// once a Go program has collected its garbage. A page that two processes share
// counts once.
func (p *Process) Memory() (float64, error) {
	if err := p.collect(); err != nil {
		return 0, err
	}
	var sum float64
	for _, pid := range p.pids() {
		proportional, err := smaps(pid, "Pss:")
		if err != nil {
			return 0, err
		}
		sum += proportional
	}
	return sum, nil
}

// Resident returns the resident memory of the process alone in bytes, once a Go
// program has collected its garbage. What it shares with others, such as the code
// of the same program, counts whole.
func (p *Process) Resident() (float64, error) {
	if err := p.collect(); err != nil {
		return 0, err
	}
	return smaps(p.cmd.Process.Pid, "Rss:")
}

func (p *Process) collect() error {
	if p.Profile == "" {
		return nil
	}
	// What is pooled goes with the second collection; the runtime takes a moment to
	// give back what is free.
	for range 3 {
		if _, err := Get(context.Background(), p.Profile+"/debug/pprof/heap?gc=1"); err != nil {
			return err
		}
		time.Sleep(300 * time.Millisecond)
	}
	return nil
}

// smaps returns what a line of a process's smaps_rollup says, in bytes
// (proc_pid_smaps(5)).
func smaps(pid int, name string) (float64, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if size, ok := strings.CutPrefix(lines.Text(), name); ok {
			kib, err := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(size, "kB")), 64)
			return kib * 1024, err
		}
	}
	return 0, errors.Join(fmt.Errorf("no %s in %s", name, f.Name()), lines.Err())
}

// FreeAddress returns a loopback address that nobody listens at.
func FreeAddress() (addr, port string, err error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", "", err
	}
	defer ln.Close()
	addr = ln.Addr().String()
	_, port, err = net.SplitHostPort(addr)
	return addr, port, err
}
