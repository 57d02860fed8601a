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
)

// fullPipe returns a full pipe: writes block until somebody reads.
func fullPipe(t *testing.T) (r, w *os.File, filled int) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	// Under the test's own, non-blocking description: Fd makes it blocking, as a shell
	// hands it on.
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

// broker is the real program with an ops listener.
type broker struct {
	*exec.Cmd
	addr, ops string
	ended     chan error
}

func startBroker(t *testing.T, stdout, stderr *os.File, args ...string) *broker {
	t.Helper()
	b := &broker{addr: freeAddress(t), ops: freeAddress(t), ended: make(chan error, 1)}
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

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// get returns the body of a page of the broker, once it answers.
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

// status returns the exit status, which must come soon.
func (b *broker) status(t *testing.T) int {
	t.Helper()
	select {
	case <-b.ended:
	case <-time.After(20 * time.Second):
		t.Fatal("the broker does not end")
	}
	return b.ProcessState.ExitCode()
}

// createKeys makes signing keys, each of which writes a line to the log.
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
			t.Fatal(resp.Status)
		}
	}
}

// A broker never waits for the reader of its standard error and standard output: not when
// it starts, serves, logs, reloads or drains.
func TestNobodyReads(t *testing.T) {
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
				t.Error("something was dropped, or no metric says so")
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
				t.Errorf("%d of %d bytes, %v", len(text), filled, err)
			}
		})
	}
}

// Once somebody reads again, the queued lines are written in order, all of them before
// the process ends.
func TestSomebodyReadsAgain(t *testing.T) {
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
		t.Errorf("of 101 keys the log has %d", n)
	}
	last := -1
	for _, text := range []string{"msg=listening", `msg="key created"`, "msg=draining", "msg=stopped\n"} {
		at := strings.Index(log, text)
		if at <= last {
			t.Errorf("%q stands at %d, what comes before it at %d", text, at, last)
		}
		last = at
	}
}

// A start that fails ends in time, whether or not somebody reads the error.
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
				t.Errorf("nobody reads: status %d, want %d", got, tt.want)
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
				t.Errorf("%q does not say %q; %v", text, tt.text, err)
			}
			if got := b.status(t); got != tt.want {
				t.Errorf("status %d, want %d", got, tt.want)
			}
		})
	}
}
