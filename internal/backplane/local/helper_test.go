package local

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"pubsub"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// Some tests need a process that is killed or exits. For these the test binary runs itself,
// with the name of a helper in helperEnv and its directory in helperDir.
const (
	helperEnv = "LOCAL_TEST_HELPER"
	helperDir = "LOCAL_TEST_HELPER_DIR"
)

var helpers = map[string]func(dir string) error{
	"publish": helpPublish,
	"open":    func(dir string) error { _, err := Open(Options{Dir: dir}); return err },
	"fail":    helpFail,
	"full":    helpFull,
}

// runHelper runs a helper and exits.
func runHelper(name string) {
	if err := helpers[name](os.Getenv(helperDir)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	os.Exit(0)
}

// helperCommand returns the command of a helper.
func helperCommand(ctx context.Context, t *testing.T, name, dir string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, self)
	cmd.Env = append(os.Environ(), helperEnv+"="+name, helperDir+"="+dir)
	return cmd
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
