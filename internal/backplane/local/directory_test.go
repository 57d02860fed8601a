package local

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"pubsub"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// wantOpenError checks that Open changes no file and returns an error that wraps sentinel
// and contains all parts.
func wantOpenError(t *testing.T, o Options, sentinel error, parts ...string) {
	t.Helper()
	before := snapshot(t, o.Dir)
	b, err := Open(o)
	if err == nil {
		t.Errorf("Open(%s) = nil, want %v", o.Dir, sentinel)
		if err := b.Close(); err != nil {
			t.Error(err)
		}
		return
	}
	if !errors.Is(err, sentinel) {
		t.Errorf("Open(%s): %v; want %v", o.Dir, err, sentinel)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("Open(%s): %v; want it to contain %q", o.Dir, err, part)
		}
	}
	if after := snapshot(t, o.Dir); !maps.Equal(before, after) {
		t.Errorf("Open(%s) failed but changed files: %v, before %v", o.Dir, names(after), names(before))
	}
}

// snapshot returns the contents of the files under dir, except locks, by path.
func snapshot(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Name() == "LOCK" {
			return nil
		}
		b, err := os.ReadFile(path)
		files[path] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func names(files map[string]string) (l []string) {
	for name := range files {
		l = append(l, filepath.Base(name))
	}
	return l
}

func TestNewDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	b := open(t, Options{Dir: dir})
	if fi, err := os.Stat(dir); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("the directory has mode %v, error %v, want 0700", fi.Mode(), err)
	}
	if text, err := os.ReadFile(filepath.Join(dir, "FORMAT")); err != nil || string(text) != "pubsub data directory, format 1\n" {
		t.Errorf("FORMAT contains %q, error %v", text, err)
	}
	generation := b.generation
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b = open(t, Options{Dir: dir})
	defer b.Close()
	if b.generation != generation || generation == 0 {
		t.Errorf("generation %x after a restart, %x before", b.generation, generation)
	}
}

func init() {
	helpers["open"] = func(dir string) error { _, err := Open(Options{Dir: dir}); return err }
}

func TestLocked(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	b := open(t, Options{Dir: dir})
	defer b.Close()
	alias := filepath.Join(filepath.Dir(dir), "alias")
	if err := os.Symlink(dir, alias); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{dir, dir + "/", alias} {
		_, err := Open(Options{Dir: name})
		if !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), dir) {
			t.Errorf("a second Open of %s: %v, want %v", name, err, ErrLocked)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := helperCommand(ctx, t, "open", dir).CombinedOutput()
	if err == nil || !strings.Contains(string(out), ErrLocked.Error()) || !strings.Contains(string(out), dir) {
		t.Errorf("Open in another process: %v, %s", err, out)
	}
	if _, err := b.Put(t.Context(), message("t", "still works"))(); err != nil {
		t.Error(err)
	}
}

func TestDirectoryUnusable(t *testing.T) {
	parent := t.TempDir()
	file := filepath.Join(parent, "file")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	wantOpenError(t, Options{}, ErrDirectory, "no directory given")
	wantOpenError(t, Options{Dir: file}, ErrDirectory, file, "is a file")
	wantOpenError(t, Options{Dir: filepath.Join(file, "data")}, ErrDirectory, file)
	missing := filepath.Join(parent, "missing")
	wantOpenError(t, Options{Dir: filepath.Join(missing, "data")}, ErrDirectory, missing, "does not exist")
}

// TestReadOnly opens a directory that cannot be written, new and with data. The directory
// is on a file system that refuses writes; it also is a read-only mount, or has a
// read-only mode, depending on the user that runs the test.
func TestReadOnly(t *testing.T) {
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	b := open(t, Options{Dir: data})
	h := newHistory()
	h.check(t, b)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	refuses := errorfs.Wrap(vfs.Default, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind.ReadOrWrite() == errorfs.OpIsWrite && op.Kind != errorfs.OpFileClose {
			return &fs.PathError{Op: "write", Path: op.Path, Err: syscall.EROFS}
		}
		return nil
	}))
	for _, name := range []string{data, filepath.Join(dir, "new")} {
		wantOpenError(t, Options{Dir: name, FS: refuses}, ErrDirectory, name, "read-only")
	}
	if !readOnly(t, dir) {
		t.Log("this user cannot make a directory read-only for itself")
		return
	}
	for _, name := range []string{data, filepath.Join(dir, "new")} {
		wantOpenError(t, Options{Dir: name}, ErrDirectory, name)
	}
}

// readOnly makes dir and everything under it read-only for the duration of the test. It
// reports whether this user can: modes do not bind root, and root may be unable to mount.
func readOnly(t *testing.T, dir string) bool {
	t.Helper()
	if os.Geteuid() == 0 {
		return runtime.GOOS == "linux" && mount(t, dir, "--bind", dir) && remount(t, dir, "-o", "remount,bind,ro")
	}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			t.Cleanup(func() { os.Chmod(path, 0o700) })
			return os.Chmod(path, 0o500)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return true
}

func TestFormat(t *testing.T) {
	dir := t.TempDir()
	b := open(t, Options{Dir: dir})
	h := newHistory()
	h.check(t, b)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "FORMAT")
	for _, c := range []struct {
		text     string
		sentinel error
		contains string
	}{
		{"pubsub data directory, format 2\n", ErrNewerFormat, "format 2"},
		{"pubsub data directory, format 12\nand more\n", ErrNewerFormat, "format 12"},
		{"pubsub data directory, format 0\n", ErrCorrupt, "restore"},
		{"pubsub data directory, format \n", ErrCorrupt, "restore"},
		{"pubsub data directory, format 1x\n", ErrCorrupt, "restore"},
		{"", ErrCorrupt, "restore"},
		{"\x00\x00\x00\x00", ErrCorrupt, "restore"},
		{strings.Repeat("x", 1<<20), ErrCorrupt, "restore"},
	} {
		if err := os.WriteFile(name, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		wantOpenError(t, Options{Dir: dir}, c.sentinel, dir, c.contains)
	}
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	wantOpenError(t, Options{Dir: dir}, ErrCorrupt, name, "missing")
	if err := os.WriteFile(name, []byte("pubsub data directory, format 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	b = open(t, Options{Dir: dir})
	defer b.Close()
	h.check(t, b)
}

// TestNewerRecords opens stores with records that a later release has written.
func TestNewerRecords(t *testing.T) {
	for name, write := range map[string]func(b *Backplane) error{
		"record": func(b *Backplane) error { return b.db.Set([]byte("mt"), []byte{recordVersion + 1}, nil) },
		"flag": func(b *Backplane) error {
			return b.db.Set([]byte("mt"), append([]byte{1, 8: 1, 9: 0x80}, make([]byte, 18)...), nil)
		},
		"unknown": func(b *Backplane) error { return b.db.Set([]byte("zzz"), nil, nil) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			b := open(t, Options{Dir: dir})
			if err := errors.Join(write(b), b.Close()); err != nil {
				t.Fatal(err)
			}
			_, err := Open(Options{Dir: dir})
			if !errors.Is(err, ErrNewerFormat) || !strings.Contains(err.Error(), dir) {
				t.Errorf("Open: %v, want %v", err, ErrNewerFormat)
			}
		})
	}
}

// TestBadNumbers opens stores whose generation or high-water mark is missing or wrong.
func TestBadNumbers(t *testing.T) {
	for name, damage := range map[string]func(b *Backplane) error{
		"no generation": func(b *Backplane) error { return b.db.Delete(generationKey, nil) },
		"no high-water": func(b *Backplane) error { return b.db.Delete(highWaterKey, nil) },
		"behind":        func(b *Backplane) error { return b.db.Set(highWaterKey, []byte{7: 1}, nil) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			b := open(t, Options{Dir: dir})
			_, err := b.Put(t.Context(), pubsub.Message{Topic: "t", Data: []byte("x"), Published: time.Now()})()
			if err := errors.Join(err, damage(b), b.Close()); err != nil {
				t.Fatal(err)
			}
			if _, err := Open(Options{Dir: dir}); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), dir) {
				t.Errorf("Open: %v, want %v", err, ErrCorrupt)
			}
		})
	}
}
