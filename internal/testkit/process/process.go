//go:build linux

// Package process runs brokers and other servers as processes of their own, for tests and
// benchmarks that observe their costs, metrics, logs and ends from outside.
package process

import (
	"bufio"
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

	"pubsub/internal/testkit"
)

// Process is a running server, with its children.
type Process struct {
	// immutable
	Addr string // where it listens, host and port
	// Profile is the URL of a Go program's ops listener, whose /debug/pprof/ can
	// collect garbage; empty for others.
	Profile string

	cmd    *exec.Cmd
	exited chan struct{} // closed when the process has ended
	output testkit.Buffer
	err    error // how it has ended; valid when exited is closed
}

// listenTimeout is how long a server may take until it listens.
const listenTimeout = 30 * time.Second

// Start starts cmd and returns when it accepts connections at addr.
func Start(cmd *exec.Cmd, addr string) (*Process, error) {
	p, err := Launch(cmd)
	if err != nil {
		return nil, err
	}
	p.Addr = addr
	err = p.waitUntil("listening", listenTimeout, func() error {
		nc, err := net.Dial("tcp", p.Addr)
		if err == nil {
			nc.Close()
		}
		return err
	})
	return p, err
}

// waitUntil polls f until it returns nil. If the process ends before, or d passes, it
// kills the process and returns an error with the end of its output.
func (p *Process) waitUntil(state string, d time.Duration, f func() error) error {
	for deadline := time.Now().Add(d); ; {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-p.exited:
			return fmt.Errorf("%s has ended: %w\n%s", p.cmd.Path, p.err, p.Tail())
		case <-time.After(10 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			p.Kill()
			return fmt.Errorf("%s is not %s after %v: %w\n%s", p.cmd.Path, state, d, err, p.Tail())
		}
	}
}

// Launch starts cmd, which need not listen. The process ends when this one does. Its
// output is kept, unless cmd has a Stdout, and a Stderr, of its own.
func Launch(cmd *exec.Cmd) (*Process, error) {
	p := &Process{cmd: cmd, exited: make(chan struct{})}
	if cmd.Stdout == nil {
		cmd.Stdout = &p.output
	}
	if cmd.Stderr == nil {
		cmd.Stderr = &p.output
	}
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		p.err = cmd.Wait()
		close(p.exited)
	}()
	return p, nil
}

// Exited returns a channel that is closed when the process has ended.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// Ended reports whether the process has ended.
func (p *Process) Ended() bool {
	select {
	case <-p.exited:
		return true
	default:
		return false
	}
}

// Wait waits for the end of the process and returns its error, as exec.Cmd.Wait
// does.
func (p *Process) Wait() error {
	<-p.exited
	return p.err
}

// State returns how the process has ended.
func (p *Process) State() *os.ProcessState {
	<-p.exited
	return p.cmd.ProcessState
}

// Pid returns the number of the process.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Signal sends a signal to the process.
func (p *Process) Signal(sig os.Signal) error { return p.cmd.Process.Signal(sig) }

// Kill ends the process by SIGKILL, even if it hangs, and waits for its end.
func (p *Process) Kill() {
	p.cmd.Process.Kill()
	<-p.exited
}

// Terminate ends the process by SIGTERM and returns how it has ended. After d, it
// kills the process and returns an error.
func (p *Process) Terminate(d time.Duration) error {
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.exited:
		return p.err
	case <-time.After(d):
		p.Kill()
		return fmt.Errorf("%s has not ended %v after SIGTERM", p.cmd.Path, d)
	}
}

// Output returns all output so far.
func (p *Process) Output() string { return p.output.String() }

// Tail returns the end of the output.
func (p *Process) Tail() string {
	s := p.Output()
	return s[max(0, len(s)-4000):]
}

// Stop ends the process by SIGTERM, and after 2 s kills it and its children.
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
			continue // it has ended
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

// CPU returns the CPU time of the process and its children, in user mode and in the
// kernel.
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

// Memory returns the resident memory of the process and its children in bytes. A Go
// program collects its garbage first. A page that two processes share counts once.
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

// Resident returns the resident memory of the process alone in bytes. A Go program
// collects its garbage first. Pages that it shares with other processes, such as the
// code of the same program, count in full.
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
	// sync.Pool is empty after two collections, and the runtime takes a moment to
	// return free memory to the system.
	for range 3 {
		if _, err := Get(context.Background(), p.Profile+"/debug/pprof/heap?gc=1"); err != nil {
			return err
		}
		time.Sleep(300 * time.Millisecond)
	}
	return nil
}

// smaps returns the value of a line of a process's smaps_rollup, in bytes
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

// FreeAddress returns a loopback address on which no process listens, and its port.
func FreeAddress() (addr, port string, err error) {
	n, err := testkit.FindPort()
	if err != nil {
		return "", "", err
	}
	port = strconv.Itoa(n)
	return "127.0.0.1:" + port, port, nil
}

// FreeAddresses returns n different loopback addresses on which no process listens, and their
// ports.
func FreeAddresses(n int) (addrs, ports []string, err error) {
	for range n {
		addr, port, err := FreeAddress()
		if err != nil {
			return nil, nil, err
		}
		addrs, ports = append(addrs, addr), append(ports, port)
	}
	return addrs, ports, nil
}
