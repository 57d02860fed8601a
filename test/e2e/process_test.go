//go:build e2e

package e2e

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// patience is how long a test waits for an event that should take milliseconds, because the machine
// may be busy. No test waits for it to see that nothing happens.
const patience = 30 * time.Second

// process is a program that a test runs. It ends, with all its descendants, when the test ends.
type process struct {
	name   string
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stdout io.ReadCloser // nil if the process was started with stdout captured
	out    *capture      // its standard output, if captured
	err    *capture      // its standard error
	exited chan struct{} // closed when the process has been reaped
}

// capture keeps the output of a process, for checks and for the report of a failure.
type capture struct {
	mu   sync.Mutex
	buf  bytes.Buffer  // guarded by mu
	more chan struct{} // guarded by mu; closed and replaced at each write
}

func newCapture() *capture { return &capture{more: make(chan struct{})} }

// Write implements [io.Writer].
func (c *capture) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.more)
	c.more = make(chan struct{})
	return c.buf.Write(b)
}

// snapshot returns everything written so far, and a channel that is closed at the next write.
func (c *capture) snapshot() (string, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.buf.String(), c.more
}

// String returns everything written so far.
func (c *capture) String() string {
	s, _ := c.snapshot()
	return s
}

// start starts cmd. Its standard output is read through [process.stdout], or, if captured, kept in
// [process.out]. The process ends with the test, which logs its standard error if it has failed.
func start(t *testing.T, name string, captured bool, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{name: name, cmd: cmd, err: newCapture(), exited: make(chan struct{})}
	// In a group of its own, so that its descendants can be killed with it. It dies with this
	// process, so that even a killed test leaves nothing behind.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = 5 * time.Second
	var err error
	if p.stdin, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = p.err
	if captured {
		p.out = newCapture()
		cmd.Stdout = p.out
	} else if p.stdout, err = cmd.StdoutPipe(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("%s: %v (\"make e2e\" installs what these tests need)", name, err)
	}
	if captured {
		go p.wait()
	}
	t.Cleanup(func() {
		p.kill()
		if errors := p.err.String(); t.Failed() && errors != "" {
			t.Logf("%s wrote to standard error:\n%s", p.name, tail(errors, 8<<10))
		}
	})
	return p
}

// wait reaps the process. Where standard output is a pipe, its reader calls it
// after reading to the end, as [exec.Cmd.StdoutPipe] demands.
func (p *process) wait() {
	p.cmd.Wait() //nolint:errcheck // ProcessState has the result
	close(p.exited)
}

// kill kills the process and its group, and waits for its end. It may be called again.
func (p *process) kill() {
	select {
	case <-p.exited: // another process may have its number
		return
	default:
	}
	syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) //nolint:errcheck // it may have ended
	<-p.exited
}

// interrupt asks the process and its group to end, as Ctrl-C in a terminal does,
// and returns its exit status.
func (p *process) interrupt(t *testing.T) int {
	t.Helper()
	return p.signal(t, -p.cmd.Process.Pid, syscall.SIGINT)
}

// terminate asks the process itself to end, as a service manager does, and
// returns its exit status.
func (p *process) terminate(t *testing.T) int {
	t.Helper()
	return p.signal(t, p.cmd.Process.Pid, syscall.SIGTERM)
}

func (p *process) signal(t *testing.T, pid int, sig syscall.Signal) int {
	t.Helper()
	if err := syscall.Kill(pid, sig); err != nil {
		t.Fatalf("%s: %v: %v", p.name, sig, err)
	}
	select {
	case <-p.exited:
	case <-time.After(patience):
		t.Fatalf("%s has not ended %v after %v", p.name, patience, sig)
	}
	return p.cmd.ProcessState.ExitCode()
}

// await waits until the captured standard output or standard error of the process satisfies done.
// It fails the test if the process ends before that, or after [patience].
func (p *process) await(t *testing.T, what string, done func(stdout, stderr string) bool) {
	t.Helper()
	late := time.After(patience)
	for {
		stdout, moreOut := p.out.snapshot()
		stderr, moreErr := p.err.snapshot()
		if done(stdout, stderr) {
			return
		}
		select {
		case <-moreOut:
		case <-moreErr:
		case <-p.exited:
			if done(p.out.String(), p.err.String()) {
				return
			}
			t.Fatalf("%s ended (%v) before %s; its output:\n%s", p.name, p.cmd.ProcessState, what, p.out)
		case <-late:
			t.Fatalf("%s: %v have passed before %s; its output:\n%s", p.name, patience, what, p.out)
		}
	}
}

// awaitEvent returns the first event that ok accepts, and skips others. It fails the test if the
// events end, or after [patience]. what names the event in the failure message.
func awaitEvent[E any](t *testing.T, what string, events <-chan E, ok func(E) bool) E {
	t.Helper()
	late := time.After(patience)
	for {
		select {
		case e, open := <-events:
			if !open {
				t.Fatalf("the events ended before %s", what)
			}
			if ok(e) {
				return e
			}
		case <-late:
			t.Fatalf("%s has not arrived within %v", what, patience)
		}
	}
}

// run runs a command to its end and returns its standard output.
// It fails the test if the command fails or takes longer than [patience].
func run(t *testing.T, stdin string, name string, args ...string) string {
	t.Helper()
	p := start(t, name, true, exec.Command(name, args...))
	io.WriteString(p.stdin, stdin) //nolint:errcheck // a command may ignore its input
	p.stdin.Close()
	select {
	case <-p.exited:
	case <-time.After(patience):
		t.Fatalf("%s %q has not ended within %v", name, args, patience)
	}
	if !p.cmd.ProcessState.Success() {
		t.Fatalf("%s %q: %v; its output:\n%s", name, args, p.cmd.ProcessState, p.out)
	}
	return p.out.String()
}

func tail(s string, n int) string {
	if len(s) > n {
		return "…" + s[len(s)-n:]
	}
	return s
}

// adoptOrphans makes this process the parent of orphaned descendants, such as a browser's helpers
// that leave their process group, so that [endDescendants] finds them.
func adoptOrphans() error {
	return unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
}

// endDescendants kills all descendants of this process, and returns when none is left.
func endDescendants() {
	for {
		pids := children(os.Getpid())
		if len(pids) == 0 {
			return
		}
		for _, pid := range pids {
			syscall.Kill(pid, syscall.SIGKILL) //nolint:errcheck // it may have ended
			syscall.Wait4(pid, nil, 0, nil)    //nolint:errcheck // its owner may have reaped it
		}
	}
}

func children(pid int) []int {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	var pids []int
	for _, f := range files {
		b, _ := os.ReadFile(f)
		for _, s := range strings.Fields(string(b)) {
			if n, err := strconv.Atoi(s); err == nil {
				pids = append(pids, n)
			}
		}
	}
	return pids
}
