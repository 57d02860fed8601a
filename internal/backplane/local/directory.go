package local

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// directory is a data directory that this process has locked:
//
//	FORMAT  what the rest is, in words: see parseFormat
//	LOCK    held as long as the directory is open
//	CLOSED  there, and empty, while the engine's files are whole: after a Close
//	store/  the engine's files
type directory struct {
	fs    vfs.FS
	real  bool   // fs is the operating system's
	path  string // as the operating system knows it, whatever name was given
	store string
	lock  io.Closer
}

// formatVersion is the format that this release writes, and the newest that it
// reads. It changes when an older release would misread the directory.
const formatVersion = 1

const formatHead = "pubsub data directory, format "

// openDirectory locks the data directory at path, makes it if it is not there,
// and checks that this release may touch it. A nil fs is the operating system's.
func openDirectory(fs vfs.FS, path string) (*directory, error) {
	real := fs == nil
	if real {
		fs = vfs.Default
	}
	if err := makeDirectory(fs, path); err != nil {
		return nil, err
	}
	if real {
		// The lock knows a directory by its name: two names of one directory
		// must not make two locks.
		p, err := filepath.Abs(path)
		if err == nil {
			p, err = filepath.EvalSymlinks(p)
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %s: %w", ErrDirectory, path, err)
		}
		path = p
	}
	d := &directory{fs: fs, real: real, path: path, store: fs.PathJoin(path, "store")}
	lock, err := fs.Lock(fs.PathJoin(path, "LOCK"))
	if err != nil {
		return nil, lockError(path, err)
	}
	d.lock = lock
	if err := d.checkFormat(); err != nil {
		return nil, errors.Join(err, d.close())
	}
	return d, nil
}

// makeDirectory makes the data directory, but no parent of it: a parent that is
// missing is a slip of the pen, or a disk that is not mounted.
func makeDirectory(fs vfs.FS, path string) error {
	switch fi, err := fs.Stat(path); {
	case err == nil && fi.IsDir():
		return nil
	case err == nil:
		return fmt.Errorf("%w: %s is a file, not a directory; name another", ErrDirectory, path)
	case !errors.Is(err, iofs.ErrNotExist):
		return fmt.Errorf("%w: %s: %w", ErrDirectory, path, err)
	}
	parent := fs.PathDir(path)
	switch fi, err := fs.Stat(parent); {
	case errors.Is(err, iofs.ErrNotExist):
		return fmt.Errorf("%w: cannot make %s: there is no %s; make it, or name another directory", ErrDirectory, path, parent)
	case err != nil:
		return fmt.Errorf("%w: %s: %w", ErrDirectory, path, err)
	case !fi.IsDir():
		return fmt.Errorf("%w: cannot make %s: %s is a file; name another directory", ErrDirectory, path, parent)
	}
	if err := fs.MkdirAll(path, 0o700); err != nil {
		return fmt.Errorf("%w: cannot make %s: %w; see to the permissions of %s", ErrDirectory, path, err, parent)
	}
	return syncDirectory(fs, parent)
}

// lockError tells a lock that is held from one that cannot be had.
func lockError(path string, err error) error {
	var onPath *iofs.PathError
	var errno syscall.Errno
	switch {
	case errors.As(err, &onPath):
		return fmt.Errorf("%w: cannot write in %s: %w; see to its permissions, or name another directory", ErrDirectory, path, err)
	case errors.As(err, &errno) && !errors.Is(err, syscall.EAGAIN) && !errors.Is(err, syscall.EACCES):
		return fmt.Errorf("%w: cannot lock %s: %w; use a disk whose file system has locks", ErrDirectory, path, err)
	}
	return fmt.Errorf("%w: %s is open in another broker; stop that one, or name another directory", ErrLocked, path)
}

// protect removes the permissions of everybody but the owner from the store's files,
// because they contain keys. It reports failures, and a data directory that others may
// use, which may be on purpose.
func (d *directory) protect(exposed func(path string, mode iofs.FileMode)) {
	if !d.real || runtime.GOOS == "windows" { // there, modes do not restrict other users
		return
	}
	if exposed == nil {
		exposed = func(string, iofs.FileMode) {}
	}
	const others = 0o077
	fi, err := os.Stat(d.path)
	if err == nil && fi.Mode().Perm()&others != 0 {
		exposed(d.path, fi.Mode())
	}
	for _, name := range []string{d.store, d.store + ".new", d.fs.PathJoin(d.path, "FORMAT"), d.fs.PathJoin(d.path, "LOCK")} {
		// Opening a file that cannot be examined will fail later.
		_ = filepath.WalkDir(name, func(path string, e iofs.DirEntry, err error) error {
			if err != nil {
				return nil
			}
			fi, err := e.Info()
			if err != nil || fi.Mode().Perm()&others == 0 || fi.Mode()&iofs.ModeSymlink != 0 {
				return nil
			}
			if err := os.Chmod(path, fi.Mode().Perm()&^others); err != nil {
				exposed(path, fi.Mode())
			}
			return nil
		})
	}
}

func (d *directory) close() error { return d.lock.Close() }

// checkFormat reads the FORMAT file, or writes it into a new directory.
func (d *directory) checkFormat() error {
	name := d.fs.PathJoin(d.path, "FORMAT")
	f, err := d.fs.Open(name)
	if errors.Is(err, iofs.ErrNotExist) {
		if _, err := d.fs.Stat(d.store); err == nil {
			return fmt.Errorf("%w: %s is missing although there is %s; %s", ErrCorrupt, name, d.store, wayOut)
		}
		return d.writeFormat(name)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDirectory, err)
	}
	defer f.Close()
	line, err := bufio.NewReader(io.LimitReader(f, 256)).ReadString('\n')
	if err != nil && err != io.EOF {
		return fmt.Errorf("%w: %s: %w", ErrDirectory, name, err)
	}
	digits, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), formatHead)
	n, err := strconv.Atoi(digits)
	switch {
	case !ok || err != nil || n < 1:
		return fmt.Errorf("%w: %s does not read %q; %s", ErrCorrupt, name, formatHead+strconv.Itoa(formatVersion), wayOut)
	case n > formatVersion:
		return fmt.Errorf("%w: %s has format %d, and this release reads up to %d; use the release that wrote it, or a later one", ErrNewerFormat, d.path, n, formatVersion)
	}
	return nil
}

// writeFormat writes the FORMAT file: whole, or not at all.
func (d *directory) writeFormat(name string) error {
	err := func() error {
		tmp := name + ".new"
		f, err := d.fs.Create(tmp, vfs.WriteCategoryUnspecified)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(f, "%s%d\n", formatHead, formatVersion)
		if err == nil {
			err = f.Sync()
		}
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
		if err := d.fs.Rename(tmp, name); err != nil {
			return err
		}
		return syncDirectory(d.fs, d.path)
	}()
	if err != nil {
		return fmt.Errorf("%w: cannot write %s: %w", ErrDirectory, name, err)
	}
	return nil
}

// wasClosed reports whether the engine's files were closed and not opened since.
func (d *directory) wasClosed() bool {
	_, err := d.fs.Stat(d.fs.PathJoin(d.path, "CLOSED"))
	return err == nil
}

// markOpen says, durably, that the engine's files may be in the middle of
// something.
func (d *directory) markOpen() error {
	if !d.wasClosed() {
		return nil
	}
	name := d.fs.PathJoin(d.path, "CLOSED")
	if err := d.fs.Remove(name); err != nil {
		return fmt.Errorf("%w: cannot remove %s: %w", ErrDirectory, name, err)
	}
	return syncDirectory(d.fs, d.path)
}

// markClosed says that the engine's files are whole.
func (d *directory) markClosed() error {
	f, err := d.fs.Create(d.fs.PathJoin(d.path, "CLOSED"), vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close(), syncDirectory(d.fs, d.path))
}

// syncDirectory makes the names in a directory durable.
func syncDirectory(fs vfs.FS, path string) error {
	f, err := fs.OpenDir(path)
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrDirectory, path, err)
	}
	if err = errors.Join(f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrDirectory, path, err)
	}
	return nil
}
