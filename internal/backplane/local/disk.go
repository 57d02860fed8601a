package local

import (
	"fmt"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// disk watches the free space of the disk that holds the data directory. The engine cannot
// continue when it cannot write its log, so messages are refused while it still has room
// to finish its work.
type disk struct {
	// immutable
	fs      vfs.FS
	path    string
	total   int64 // 0 if unknown
	reserve int64

	mu      sync.Mutex
	checked time.Time // when free was called last
	left    int64     // free bytes then, less those taken since
	unknown bool      // the file system did not report its free space
}

// checkEvery is the time between two looks at the free space.
const checkEvery = 100 * time.Millisecond

// writesPerByte is the number of bytes on disk for each byte of a record: it goes to the
// log, and then to a table.
const writesPerByte = 2

// newDisk watches the disk that holds path.
func newDisk(fs vfs.FS, path string, reserve int64) *disk {
	d := &disk{fs: fs, path: path, reserve: reserve}
	if u, err := fs.GetDiskUsage(path); err == nil {
		d.total = int64(u.TotalBytes)
		d.reserve = min(d.reserve, d.total/8)
	}
	return d
}

// free returns the number of free bytes, or -1 if it is unknown.
func (d *disk) free() int64 {
	u, err := d.fs.GetDiskUsage(d.path)
	if err != nil {
		return -1
	}
	return int64(u.AvailBytes)
}

// take reserves room for a write of n bytes. It returns [ErrDiskFull] if leave bytes or
// less would then be free. It succeeds if the free space is unknown.
func (d *disk) take(n, leave int64) error {
	n *= writesPerByte
	d.mu.Lock()
	defer d.mu.Unlock()
	if now := time.Now(); d.checked.IsZero() || now.Sub(d.checked) >= checkEvery {
		d.left = d.free()
		d.checked, d.unknown = now, d.left < 0
	}
	if d.unknown {
		return nil
	}
	if d.left-n <= leave {
		return fmt.Errorf("%w: the disk of %s has %s free and needs %s; free some space", ErrDiskFull, d.path, size(d.left), size(leave))
	}
	d.left -= n
	return nil
}

// The reserve is used up in steps: the lower the step, the more important its writes. The
// last step is for the engine, which cannot stop in the middle of a write.

// forMessages returns how many bytes a retained message must leave free.
func (d *disk) forMessages() int64 { return d.reserve }

// forCompactions returns how many bytes compactions must leave free, and removals of
// expired messages too, because only a compaction frees their space. Flushes of the
// messages in memory may use the rest: see memTableSize.
func (d *disk) forCompactions() int64 { return d.reserve / 4 * 3 }

// forKeys returns how many bytes a change of a signing key must leave free.
func (d *disk) forKeys() int64 { return d.reserve / 8 }

// size formats a number of bytes with a unit.
func size(n int64) string {
	switch {
	case n >= 10<<20:
		return fmt.Sprintf("%d MiB", n>>20)
	case n >= 10<<10:
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%d bytes", n)
}
