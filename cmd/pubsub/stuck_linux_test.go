package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"pubsub/internal/testkit"
)

// fullPipe returns a full pipe, to which writes block, and the number of bytes in it.
func fullPipe(t *testing.T) (r, w *os.File, filled int) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	// Fill it while it is non-blocking. Later Fd makes it blocking, like a pipe of a shell.
	if err := w.SetWriteDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	for b := bytes.Repeat([]byte("."), 4096); err == nil; {
		var n int
		n, err = w.Write(b)
		filled += n
	}
	return r, w, filled
}

// broker is a process of the real program.
type broker struct {
	*exec.Cmd
	addr, ops string     // of its two listeners
	ended     chan error // receives the result of Wait
}

// startBroker starts a broker, which is killed at the end of the test.
func startBroker(t *testing.T, stdout, stderr *os.File, args ...string) *broker {
	t.Helper()
	b := &broker{addr: testkit.FreeAddress(t), ops: testkit.FreeAddress(t), ended: make(chan error, 1)}
	b.Cmd = exec.Command("pubsub", append([]string{"serve", "--listen", b.addr, "--ops-listen", b.ops}, args...)...)
	b.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0", "PUBSUB_ADMIN_TOKEN=admin")
	b.Stdout, b.Stderr = stdout, stderr
	if err := b.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { b.ended <- b.Wait() }()
	t.Cleanup(func() { b.Process.Kill() })
	return b
}

// get waits until the broker answers and returns the body of a page.
func (b *broker) get(t *testing.T, address, path string) string {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		resp, err := http.Get("http://" + address + path)
		if err == nil {
			defer resp.Body.Close()
			body, _ := io.ReadAll(resp.Body)
			return string(body)
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// status waits until the broker has exited and returns its exit status.
func (b *broker) status(t *testing.T) int {
	t.Helper()
	select {
	case <-b.ended:
	case <-time.After(20 * time.Second):
		t.Fatal("the broker does not exit")
	}
	return b.ProcessState.ExitCode()
}

// createKeys creates n signing keys. The broker logs a line for each.
func (b *broker) createKeys(t *testing.T, n int) {
	t.Helper()
	client := http.Client{Timeout: 20 * time.Second}
	for range n {
		req, err := http.NewRequest("POST", "http://"+b.addr+"/admin/keys", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Fastly-Key", "admin")
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 200 {
			t.Fatalf("status %s, want 200", resp.Status)
		}
	}
}

// TestOutputIsNotRead checks that a broker never waits for the reader of its standard error
// and standard output, whether it starts, serves, logs, reloads or drains.
func TestOutputIsNotRead(t *testing.T) {
	for _, tt := range []struct {
		name string
		args []string
		end  []syscall.Signal
		want int
	}{
		{"serve", []string{"--in-memory"}, []syscall.Signal{syscall.SIGTERM}, 0},
		{"dev", []string{"--dev"}, []syscall.Signal{syscall.SIGINT}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r, w, filled := fullPipe(t)
			b := startBroker(t, w, w, append(tt.args, "--log-level", "debug")...)
			b.get(t, b.addr, "/")
			b.createKeys(t, 3)
			if err := b.Process.Signal(syscall.SIGHUP); err != nil {
				t.Fatal(err)
			}
			b.createKeys(t, 3)
			if m := b.get(t, b.ops, "/metrics"); !strings.Contains(m, "\npubsub_log_lines_dropped_total 0\n") {
				t.Error("pubsub_log_lines_dropped_total is not 0")
			}
			for _, s := range tt.end {
				if err := b.Process.Signal(s); err != nil {
					t.Fatal(err)
				}
			}
			if got := b.status(t); got != tt.want {
				t.Errorf("status %d, want %d", got, tt.want)
			}
			w.Close()
			if text, err := io.ReadAll(r); err != nil || len(text) < filled {
				t.Errorf("the pipe has %d bytes, %v, want at least %d", len(text), err, filled)
			}
		})
	}
}

// TestOutputIsReadAgain checks that queued lines are written in order when the output is
// read again, and all of them before the process exits.
func TestOutputIsReadAgain(t *testing.T) {
	r, w, filled := fullPipe(t)
	b := startBroker(t, nil, w, "--in-memory")
	b.get(t, b.addr, "/")
	b.createKeys(t, 100)
	w.Close()
	read := make(chan string)
	go func() {
		text, _ := io.ReadAll(r)
		read <- string(text[filled:])
	}()
	b.createKeys(t, 1)
	if err := b.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if got := b.status(t); got != 0 {
		t.Errorf("status %d", got)
	}
	log := <-read
	if n := strings.Count(log, `msg="key created"`); n != 101 {
		t.Errorf("the log has %d of 101 keys", n)
	}
	last := -1
	for _, text := range []string{"msg=listening", `msg="key created"`, "msg=draining", "msg=stopped\n"} {
		at := strings.Index(log, text)
		if at <= last {
			t.Errorf("%q is at %d, but its predecessor at %d", text, at, last)
		}
		last = at
	}
}

// TestFailedStart checks that a start that fails exits soon, even if the error is not read.
func TestFailedStart(t *testing.T) {
	used, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { used.Close() })
	for _, tt := range []struct {
		args []string
		want int
		text string
	}{
		{[]string{"--in-memory", "--listen", used.Addr().String()}, 1, "pubsub: listen: the port of " + used.Addr().String() + " is in use"},
		{[]string{"--max-message-size", "none"}, 2, `pubsub: max-message-size "none"`},
	} {
		t.Run(fmt.Sprint(tt.want), func(t *testing.T) {
			t.Parallel()
			_, w, _ := fullPipe(t)
			if got := startBroker(t, w, w, tt.args...).status(t); got != tt.want {
				t.Errorf("output not read: status %d, want %d", got, tt.want)
			}
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			b := startBroker(t, nil, w, tt.args...)
			w.Close()
			text, err := io.ReadAll(r)
			if err != nil || !strings.Contains(string(text), tt.text) {
				t.Errorf("%q does not contain %q; %v", text, tt.text, err)
			}
			if got := b.status(t); got != tt.want {
				t.Errorf("status %d, want %d", got, tt.want)
			}
		})
	}
}
