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
//	FORMAT  the format of the directory: see checkFormat
//	LOCK    locked while the directory is open
//	CLOSED  empty; exists if Close has completed and the engine was not opened since
//	store/  the engine's files
type directory struct {
	fs    vfs.FS
	real  bool   // fs is the operating system's
	path  string // absolute and without symbolic links if real
	store string
	lock  io.Closer
}

// formatVersion is the format that this release writes, and the newest one that it reads.
// It changes when an older release would misread the directory.
const formatVersion = 1

const formatHead = "pubsub data directory, format "

// openDirectory locks the data directory at path, creates it if it does not exist, and
// checks its format. A nil fs means the operating system's.
func openDirectory(fs vfs.FS, path string) (*directory, error) {
	real := fs == nil
	if real {
		fs = vfs.Default
	}
	if err := makeDirectory(fs, path); err != nil {
		return nil, err
	}
	if real {
		// The lock identifies a directory by its name, so two names of one directory
		// must not result in two locks.
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

// makeDirectory creates the data directory, but not its parent: a missing parent is
// probably a typing error, or a disk that is not mounted.
func makeDirectory(fs vfs.FS, path string) error {
	switch fi, err := fs.Stat(path); {
	case err == nil && fi.IsDir():
		return nil
	case err == nil:
		return fmt.Errorf("%w: %s is a file; use another directory", ErrDirectory, path)
	case !errors.Is(err, iofs.ErrNotExist):
		return fmt.Errorf("%w: %s: %w", ErrDirectory, path, err)
	}
	parent := fs.PathDir(path)
	switch fi, err := fs.Stat(parent); {
	case errors.Is(err, iofs.ErrNotExist):
		return fmt.Errorf("%w: cannot create %s: %s does not exist; create it, or use another directory", ErrDirectory, path, parent)
	case err != nil:
		return fmt.Errorf("%w: %s: %w", ErrDirectory, path, err)
	case !fi.IsDir():
		return fmt.Errorf("%w: cannot create %s: %s is a file; use another directory", ErrDirectory, path, parent)
	}
	if err := fs.MkdirAll(path, 0o700); err != nil {
		return fmt.Errorf("%w: cannot create %s: %w; check the permissions of %s", ErrDirectory, path, err, parent)
	}
	return syncDirectory(fs, parent)
}

// lockError distinguishes a directory that is in use from one that cannot be locked.
func lockError(path string, err error) error {
	var onPath *iofs.PathError
	var errno syscall.Errno
	switch {
	case errors.As(err, &onPath):
		return fmt.Errorf("%w: cannot write in %s: %w; check its permissions, or use another directory", ErrDirectory, path, err)
	case errors.As(err, &errno) && !errors.Is(err, syscall.EAGAIN) && !errors.Is(err, syscall.EACCES):
		return fmt.Errorf("%w: cannot lock %s: %w; use a file system that supports locks", ErrDirectory, path, err)
	}
	return fmt.Errorf("%w: %s is open in another broker; stop that broker, or use another directory", ErrLocked, path)
}

// protect removes the permissions of all users but the owner from the store's files,
// because they contain keys. It reports failures, and a data directory that other users
// have access to, because that may be intended.
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
			return fmt.Errorf("%w: %s exists, but %s is missing; %s", ErrCorrupt, d.store, name, remedy)
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
		return fmt.Errorf("%w: %s does not contain a line such as %q; %s", ErrCorrupt, name, formatHead+strconv.Itoa(formatVersion), remedy)
	case n > formatVersion:
		return fmt.Errorf("%w: %s has format %d, and this release reads formats up to %d; use the release that wrote it, or a later one", ErrNewerFormat, d.path, n, formatVersion)
	}
	return nil
}

// writeFormat writes the FORMAT file atomically.
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

// wasClosed reports whether the engine's files were closed properly and not opened since.
func (d *directory) wasClosed() bool {
	_, err := d.fs.Stat(d.fs.PathJoin(d.path, "CLOSED"))
	return err == nil
}

// markOpen removes the CLOSED file durably: from now on a crash may leave the engine's
// files incomplete.
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

// markClosed writes the CLOSED file: the engine's files are complete.
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
