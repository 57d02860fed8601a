//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"pubsub/internal/testkit"
	"pubsub/internal/testkit/process"
)

// asCommand is the environment variable that makes the test's binary the command, and the processes
// that the command starts.
const asCommand = "CLUSTER_TEST_COMMAND"

func TestMain(m *testing.M) {
	if os.Getenv(asCommand) != "" {
		main()
		return
	}
	os.Exit(withBroker(m))
}

// binary is the path of our broker's binary.
var binary string

// withBroker runs the tests with a broker built from this tree.
func withBroker(m *testing.M) int {
	dir, err := os.MkdirTemp("", "cluster")
	if err == nil {
		defer os.RemoveAll(dir)
		binary, err = process.Build(context.Background(), dir)
	}
	if err != nil {
		log.Print(err)
		return 1
	}
	return m.Run()
}

// command returns the command with these flags, the directory of its files, and its output.
func command(t *testing.T, args ...string) (cmd *exec.Cmd, dir string, stdout, stderr *bytes.Buffer) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir, stdout, stderr = t.TempDir(), new(bytes.Buffer), new(bytes.Buffer)
	cmd = exec.CommandContext(t.Context(), self, append([]string{"-binary", binary}, args...)...)
	cmd.Env = append(os.Environ(), asCommand+"=1", "TMPDIR="+dir)
	cmd.Stdout, cmd.Stderr = stdout, stderr
	return cmd, dir, stdout, stderr
}

// children returns the child processes of pid.
func children(t *testing.T, pid int) (pids []int) {
	t.Helper()
	tasks, err := filepath.Glob("/proc/" + strconv.Itoa(pid) + "/task/*/children")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range tasks {
		b, err := os.ReadFile(file)
		if err != nil {
			continue // the thread has ended
		}
		for _, field := range strings.Fields(string(b)) {
			child, err := strconv.Atoi(field)
			if err != nil {
				t.Fatal(err)
			}
			pids = append(pids, child)
		}
	}
	return pids
}

// checkEmpty checks that dir is empty.
func checkEmpty(t *testing.T, dir string) {
	t.Helper()
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		t.Errorf("%s is left in the directory for temporary files", f.Name())
	}
}

// A small run measures everything, loses no message, and leaves no files.
func TestSmallRun(t *testing.T) {
	cmd, dir, stdout, stderr := command(t,
		"-nodes", "3", "-subscribers", "500", "-messages", "4", "-audience", "50", "-rounds", "1", "-phase", "200ms")
	if err := cmd.Run(); err != nil {
		t.Fatalf("the command failed: %v\n%s%s", err, stdout, stderr)
	}
	for _, want := range []string{
		`1500 subscribers of one topic, 500 on each of 3 nodes`,
		`  \d+ connects/s, 8 messages in `,
		`  a node +\d+\.\d +\d+\.\d +\d+\.\d +-?\d+ +-?\d+\n`,
		`  plain +4 +\d+\.\d +\d+\.\d +\d+\.\d\n`,
		`  retained +4 +\d+\.\d +\d+\.\d +\d+\.\d\n`,
		`  NATS +\d+\.\d\d +\d+\.\d\d\n`,
		`\n12000 deliveries, 0 lost\n`,
		`  retained, embedded +\d+\.\d\d +\d+\.\d\d +\d+\.\d\d +\d+\.\d\d\n`,
		`  retained, NATS +\d+\.\d\d +\d+\.\d\d +\d+\.\d\d +\d+\.\d\d\n`,
		`\n0 deliveries lost\n`,
	} {
		if !regexp.MustCompile(want).MatchString(stdout.String()) {
			t.Errorf("nothing matches %q in\n%s", want, stdout)
		}
	}
	checkEmpty(t, dir)
}

// When the command ends, for any reason and at any time, all processes that it has started end,
// too.
func TestEnds(t *testing.T) {
	testkit.SkipUnlessLong(t)
	interrupt := func(command *os.Process, _ []int) { command.Signal(syscall.SIGTERM) }
	for name, tt := range map[string]struct {
		at   string // progress at which the test ends it
		args []string
		end  func(command *os.Process, children []int)
		want string // in its output
	}{
		"interrupt/connecting": {"scale: connecting", []string{"-subscribers", "5000"}, interrupt, "cluster: terminated"},
		"interrupt/publishing": {"scale: publishing", []string{"-subscribers", "100", "-messages", "1000000"}, interrupt, "cluster: terminated"},
		"interrupt/starting":   {"latency: round 2 of 2, NATS", []string{"-parts", "latency", "-rounds", "2", "-phase", "50ms"}, interrupt, "cluster: terminated"},
		"failure": {"scale: publishing", []string{"-subscribers", "100", "-messages", "1000000"}, func(_ *os.Process, children []int) {
			syscall.Kill(children[len(children)-1], syscall.SIGKILL)
		}, "cluster: scale: "},
	} {
		t.Run(name, func(t *testing.T) {
			cmd, dir, stdout, output := command(t, append([]string{"-nodes", "2"}, tt.args...)...)
			cmd.Stderr = nil
			stderr, err := cmd.StderrPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			var started []int
			for lines := bufio.NewScanner(stderr); lines.Scan(); {
				output.WriteString(lines.Text() + "\n")
				if strings.Contains(lines.Text(), tt.at) {
					started = children(t, cmd.Process.Pid)
					tt.end(cmd.Process, started)
				}
			}
			err = cmd.Wait()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(output.String(), tt.want) {
				t.Errorf("the command ended with %v, not with 1 and %q:\n%s%s", err, tt.want, stdout, output)
			}
			if strings.HasPrefix(tt.at, "scale") && len(started) < 5 {
				t.Errorf("%d processes, want NATS, two nodes and their subscribers:\n%s", len(started), output)
			}
			for _, pid := range started {
				if syscall.Kill(pid, 0) == nil {
					t.Errorf("the child process %d is still running", pid)
				}
			}
			checkEmpty(t, dir)
		})
	}
}

// On a machine with too few descriptors or too little memory there are fewer subscribers, for a
// reason.
func TestFits(t *testing.T) {
	const gib = 1 << 30
	for _, tt := range []struct {
		nodes, subscribers, descriptors int
		available                       float64
		want                            int
		why                             string
	}{
		{10, 15000, 20000, 20 * gib, 15000, ""},
		{10, 30000, 20000, 20 * gib, 19500, "20000 file descriptors"},
		{10, 15000, 20000, 2 * gib, 2293, "2.0 GiB of memory"},
		{10, 15000, 2000, 2 * gib, 1500, "2000 file descriptors"},
		{100, 1, 20000, gib, -7667, "1.0 GiB of memory"},
	} {
		got, why := fits(tt.nodes, tt.subscribers, tt.descriptors, tt.available)
		if got != tt.want || !strings.Contains(why, tt.why) || (why == "") != (tt.why == "") {
			t.Errorf("%d nodes of %d, %d descriptors, %.0f bytes: %d (%s), want %d (%s)", tt.nodes, tt.subscribers, tt.descriptors, tt.available, got, why, tt.want, tt.why)
		}
	}
}
