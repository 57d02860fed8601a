package local

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"pubsub"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// TestKill repeatedly kills a process of 64 publishers at a random moment, always with the
// same directory.
func TestKill(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	h := newHistory()
	repeat(t, 50, func(rng *rand.Rand) {
		for _, line := range publishAndKill(t, dir, 1+rng.IntN(1000)) {
			h.sawLine(t, line)
		}
		b := open(t, Options{Dir: dir})
		h.check(t, b)
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
}

// publishAndKill runs a process of publishers on dir and kills it after so many lines of
// acknowledgements. It returns all lines.
func publishAndKill(t *testing.T, dir string, lines int) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := helperCommand(ctx, t, "publish", dir)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var all []string
	scanner := bufio.NewScanner(out)
	for scanner.Scan() {
		if all = append(all, scanner.Text()); len(all) == lines {
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	err = cmd.Wait()
	if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.Exited() {
		t.Fatalf("the publishers exited by themselves: %v\n%s", err, &stderr)
	}
	return all
}

// TestLogFails checks that a process exits with a clear message when it can no longer
// write its log. It acknowledges nothing more, and no acknowledged message is lost.
func TestLogFails(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := helperCommand(ctx, t, "fail", dir)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Fatalf("the process exited with %v\n%s", err, &stderr)
	}
	if msg := stderr.String(); !strings.Contains(msg, dir) || !strings.Contains(msg, "cannot write") {
		t.Errorf("the process printed %q", msg)
	}
	h := newHistory()
	for line := range strings.Lines(stdout.String()) {
		h.sawLine(t, line)
	}
	if len(h.values) != 100 {
		t.Errorf("%d messages were acknowledged, want the 100 before the failure", len(h.values))
	}
	b := open(t, Options{Dir: dir})
	defer b.Close()
	h.check(t, b)
}

func init() {
	helpers["publish"], helpers["fail"] = helpPublish, helpFail
}

// helpPublish publishes endlessly with 64 publishers. For each acknowledged message it
// prints a line with its topic, version and value.
func helpPublish(dir string) error {
	b, err := Open(Options{Dir: dir})
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	for p := range 64 {
		wg.Go(func() {
			for i := 0; ; i++ {
				m := pubsub.Message{
					Topic:     pubsub.Topic(fmt.Sprintf("kill/%d", (p+i)%100)),
					Data:      fmt.Appendf(nil, "%d/%d/%d", os.Getpid(), p, i),
					Published: time.Now(),
				}
				v, err := b.Put(context.Background(), m)()
				if err != nil {
					fmt.Fprintln(os.Stderr, err)
					os.Exit(2)
				}
				// The line is short, so its write to the pipe is atomic.
				if _, err := fmt.Printf("%s %v %s\n", m.Topic, v, m.Data); err != nil {
					os.Exit(2)
				}
			}
		})
	}
	wg.Wait()
	return nil
}

// helpFail publishes until a sync of the log fails, after a hundred messages. It prints a
// line for each acknowledged message, as helpPublish does.
func helpFail(dir string) error {
	var failing atomic.Bool
	inject := func(op errorfs.Op) error {
		switch op.Kind {
		case errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo:
			if failing.Load() && filepath.Ext(op.Path) == ".log" {
				return syscall.EIO
			}
		}
		return nil
	}
	b, err := Open(Options{Dir: dir, FS: errorfs.Wrap(vfs.Default, errorfs.InjectorFunc(inject))})
	if err != nil {
		return err
	}
	for i := 0; ; i++ {
		if i == 100 {
			failing.Store(true)
		}
		m := pubsub.Message{Topic: "t", Data: fmt.Append(nil, i), Published: time.Now()}
		v, err := b.Put(context.Background(), m)()
		if err != nil {
			return fmt.Errorf("a Put has returned: %w", err)
		}
		fmt.Println(m.Topic, v, string(m.Data))
	}
}
