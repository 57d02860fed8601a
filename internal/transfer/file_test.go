package transfer_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"pubsub/internal/transfer"
)

// onlyFile returns the name of the only file in dir, and checks that its mode is 0600.
func onlyFile(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Fatalf("the directory has %v, %v; want one file", entries, err)
	}
	fi, err := entries[0].Info()
	if err != nil || fi.Mode() != 0o600 {
		t.Errorf("%s has mode %v, %v; want 0600", fi.Name(), fi.Mode(), err)
	}
	return entries[0].Name()
}

func TestWriteFile(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "file")
	content := func(want string) {
		t.Helper()
		onlyFile(t, dir)
		if b, err := os.ReadFile(name); string(b) != want || err != nil {
			t.Errorf("the file has %q, %v; want %q", b, err, want)
		}
	}
	// The file has its mode from the beginning, and its name only when it is complete.
	old := syscall.Umask(0)
	defer syscall.Umask(old)
	err := transfer.WriteFile(name, func(w io.Writer) error {
		if onlyFile(t, dir) == "file" {
			t.Error("the file has its name before it is complete")
		}
		_, err := io.WriteString(w, "first")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	content("first")
	// A failure leaves the old file, and no other.
	broken := errors.New("broken")
	if err := transfer.WriteFile(name, func(w io.Writer) error {
		io.WriteString(w, "half")
		return broken
	}); !errors.Is(err, broken) {
		t.Errorf("WriteFile: %v, want %v", err, broken)
	}
	content("first")
	// A file that others can read is replaced by a private one.
	if err := os.Chmod(name, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := transfer.WriteFile(name, func(w io.Writer) error { _, err := io.WriteString(w, "second"); return err }); err != nil {
		t.Fatal(err)
	}
	content("second")

	unexpected := func(io.Writer) error { t.Error("write was called"); return nil }
	if err := transfer.WriteFile(dir, unexpected); err == nil {
		t.Error("a directory was replaced")
	}
	if err := transfer.WriteFile(os.DevNull, unexpected); err == nil {
		t.Error("a device was replaced")
	}
	if err := transfer.WriteFile(filepath.Join(dir, "none", "file"), unexpected); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("in a missing directory: %v", err)
	}
}
