package local

import (
	"fmt"
	"sync"
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
	left   int64     // free bytes when asked, less those taken since
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

// take notes that n bytes are about to be written; [ErrDiskFull] if less than leave
// would be free after that. A file system that does not tell its free space is
// taken to have some.
func (d *disk) take(n, leave int64) error {
	n *= writtenTwice
	d.mu.Lock()
	defer d.mu.Unlock()
	if now := time.Now(); d.asked.IsZero() || now.Sub(d.asked) >= askEvery {
		d.left = d.free()
		d.asked, d.unsure = now, d.left < 0
	}
	if d.unsure {
		return nil
	}
	if d.left-n <= leave {
		return fmt.Errorf("%w: %s are free on the disk of %s, and %s are needed; make room", ErrDiskFull, size(d.left), d.path, size(leave))
	}
	d.left -= n
	return nil
}

// The reserve is used up in steps: the lower the step, the more important its writes. The
// last step is for the engine, which cannot stop in the middle of a write.

// forMessages is how much a retained message must leave free.
func (d *disk) forMessages() int64 { return d.reserve }

// forCompactions is how much compactions must leave free, and sweeps, too, because only a
// compaction turns their work into free space. The messages in memory still go to tables
// then: see memTableSize.
func (d *disk) forCompactions() int64 { return d.reserve / 4 * 3 }

// forKeys is how much a change of a signing key must leave free.
func (d *disk) forKeys() int64 { return d.reserve / 8 }

// size formats n bytes for people.
func size(n int64) string {
	switch {
	case n >= 10<<20:
		return fmt.Sprintf("%d MiB", n>>20)
	case n >= 10<<10:
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%d bytes", n)
}
