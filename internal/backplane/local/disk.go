package local

import (
	"fmt"
	"sync"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// disk watches the free space of the disk that holds the data directory. The
// engine cannot go on once its log cannot be written, so messages are refused
// while there is still room for it to finish its work.
type disk struct {
	// immutable
	fs      vfs.FS
	path    string
	total   int64 // 0 if unknown
	reserve int64

	mu     sync.Mutex
	asked  time.Time // when left was asked for
	left   int64     // bytes above the reserve, less what was taken since asked
	unsure bool      // the file system did not tell
}

// askEvery is how long an answer of the file system counts.
const askEvery = 100 * time.Millisecond

// writtenTwice is what a byte of a record costs on disk at once: it goes to the
// log, and then to a table.
const writtenTwice = 2

// newDisk watches the disk that holds path.
func newDisk(fs vfs.FS, path string, reserve int64) *disk {
	d := &disk{fs: fs, path: path, reserve: reserve}
	if u, err := fs.GetDiskUsage(path); err == nil {
		d.total = int64(u.TotalBytes)
		d.reserve = min(d.reserve, d.total/8)
	}
	return d
}

// free returns how many bytes are free, -1 if that is unknown.
func (d *disk) free() int64 {
	u, err := d.fs.GetDiskUsage(d.path)
	if err != nil {
		return -1
	}
	return int64(u.AvailBytes)
}

// take notes that n bytes are about to be written; [ErrDiskFull] if they would
// eat into the reserve. A file system that does not tell its free space is
// taken to have some.
func (d *disk) take(n int64) error {
	n *= writtenTwice
	d.mu.Lock()
	defer d.mu.Unlock()
	if now := time.Now(); d.asked.IsZero() || now.Sub(d.asked) >= askEvery {
		free := d.free()
		d.asked, d.unsure, d.left = now, free < 0, free-d.reserve
	}
	if d.unsure {
		return nil
	}
	if d.left <= n {
		return fmt.Errorf("%w: less than the reserve of %d MiB is free for %s; make room", ErrDiskFull, d.reserve>>20, d.path)
	}
	d.left -= n
	return nil
}

// compactionFS keeps compactions from the lower half of the reserve. A compaction
// needs room for all that it rewrites before it frees any; one that took the last
// of the disk would stop the log, and with it the process.
type compactionFS struct {
	vfs.FS
	disk   *disk
	closed <-chan struct{}
}

// compaction is how the engine names the purpose of such a file.
const compaction = vfs.DiskWriteCategory("pebble-compaction")

// retryAfter is how long a compaction waits before it fails for lack of room: the
// engine tries again at once.
const retryAfter = time.Second

// Create implements [vfs.FS].
func (fs *compactionFS) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	if category != compaction {
		return fs.FS.Create(name, category)
	}
	if err := fs.room(); err != nil {
		select {
		case <-time.After(retryAfter):
		case <-fs.closed:
		}
		return nil, err
	}
	f, err := fs.FS.Create(name, category)
	if err != nil {
		return nil, err
	}
	return &compactionFile{File: f, fs: fs}, nil
}

// Unwrap implements [vfs.FS].
func (fs *compactionFS) Unwrap() vfs.FS { return fs.FS }

// room returns an error if a compaction must not go on.
func (fs *compactionFS) room() error {
	if free := fs.disk.free(); free >= 0 && free < fs.disk.reserve/2 {
		return fmt.Errorf("%w: no room for a compaction (%w)", ErrDiskFull, syscall.ENOSPC)
	}
	return nil
}

// compactionFile is a file that a compaction writes.
type compactionFile struct {
	vfs.File
	fs *compactionFS
}

// Write implements [vfs.File].
func (f *compactionFile) Write(b []byte) (int, error) {
	if err := f.fs.room(); err != nil {
		return 0, err
	}
	return f.File.Write(b)
}
