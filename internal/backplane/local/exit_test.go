package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"pubsub"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

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

// TestNoRoomWhileOpening fills the disk while a store is being opened, after all checks.
// The process exits with a line that names the directory.
func TestNoRoomWhileOpening(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	publishAndKill(t, dir, 10)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := helperCommand(ctx, t, "full", dir).CombinedOutput()
	if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Errorf("the process exited with %v", err)
	}
	if text := string(out); !strings.Contains(text, dir) || !strings.Contains(text, syscall.ENOSPC.Error()) || strings.Count(text, "\n") != 1 {
		t.Errorf("the process printed %q", text)
	}
	b := open(t, Options{Dir: dir})
	defer b.Close()
	checkStats(t, b)
}

func init() { helpers["fail"], helpers["full"] = helpFail, helpFull }

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

// helpFull opens a store on a disk that reports free space but has no room for a table.
func helpFull(dir string) error {
	fs := errorfs.Wrap(vfs.Default, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind == errorfs.OpFileWrite && filepath.Ext(op.Path) == ".sst" {
			return syscall.ENOSPC
		}
		return nil
	}))
	_, err := Open(Options{Dir: dir, FS: fs})
	return fmt.Errorf("Open has returned: %v", err)
}
