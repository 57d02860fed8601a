package local

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestModes opens a store whose directory and files other users can read. Open reports the
// directory, and makes the store's own files private.
func TestModes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	b := open(t, Options{Dir: dir})
	if _, err := b.Put(t.Context(), message("t", "x"))(); err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	walk := func(do func(path string, fi fs.FileInfo)) {
		t.Helper()
		err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			var fi fs.FileInfo
			if err == nil {
				fi, err = e.Info()
			}
			if errors.Is(err, fs.ErrNotExist) {
				return nil // removed meanwhile by the store
			}
			if err == nil {
				do(path, fi)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	walk(func(path string, fi fs.FileInfo) {
		mode := fs.FileMode(0o666)
		if fi.IsDir() {
			mode = 0o755
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	})
	var exposed []string
	b = open(t, Options{Dir: dir, Events: Events{Exposed: func(path string, mode fs.FileMode) {
		exposed = append(exposed, path+" "+mode.String())
	}}})
	defer b.Close()
	if got := strings.Join(exposed, ", "); got != dir+" drwxr-xr-x" {
		t.Errorf("exposed: %s", got)
	}
	old := map[string]bool{"FORMAT": true, "LOCK": true, "store": true}
	walk(func(path string, fi fs.FileInfo) {
		if fi.Mode().Perm()&0o077 != 0 && old[filepath.Base(path)] {
			t.Errorf("%s has the mode %v", path, fi.Mode())
		}
	})
	exposed = nil
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	b = open(t, Options{Dir: dir, Events: Events{Exposed: func(path string, mode fs.FileMode) { exposed = append(exposed, path) }}})
	defer b.Close()
	if len(exposed) != 0 {
		t.Errorf("exposed: %q", exposed)
	}
}
