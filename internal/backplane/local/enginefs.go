package local

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// engineFS is the file system of the engine. The engine ends the process when it cannot
// write its log or its MANIFEST, and repeats a failed flush or compaction at once, for
// ever. So engineFS
//
//   - opens files with reserved descriptors when the process has no other;
//   - waits for a descriptor, or for room on the disk, where the engine cannot continue
//     without it; [committer] answers publishers meanwhile;
//   - pauses before it returns the failure of a flush or a compaction;
//   - keeps compactions out of the lower part of the reserve, because a compaction
//     needs room for everything that it rewrites before it frees any;
//   - records how much was synced: see [syncMarks].
type engineFS struct {
	vfs.FS

	// immutable
	disk   *disk
	files  *descriptors
	marks  *syncMarks
	closed <-chan struct{} // ends all waiting
	report reporter
	fatal  func(error)

	// serving is set once the engine is open. Before that no call waits, so that a start
	// without room or descriptors fails at once.
	serving atomic.Bool
}

const (
	// retryAfter is how long the failure of a flush or a compaction is held back before
	// the engine receives it and tries again.
	retryAfter = time.Second
	// pollInterval is the time between two attempts to get the missing room or descriptor.
	pollInterval = 100 * time.Millisecond
)

// fileKind is the purpose of a file.
type fileKind int

const (
	otherFile fileKind = iota
	logFile
	manifestFile
	flushFile
	compactionFile
	readFile
)

// kindOf returns the kind of a file that is opened for writing.
func kindOf(category vfs.DiskWriteCategory) fileKind {
	switch category {
	case "pebble-wal":
		return logFile
	case "pebble-manifest":
		return manifestFile
	case "pebble-memtable-flush":
		return flushFile
	case "pebble-compaction", "pebble-blob-file-rewrite":
		return compactionFile
	}
	return otherFile
}

// numberOf returns the number in the name of a log or a MANIFEST.
func numberOf(name string) uint64 {
	name = strings.TrimSuffix(name[strings.LastIndexAny(name, `/\`)+1:], ".log")
	n, _ := strconv.ParseUint(strings.TrimPrefix(name, "MANIFEST-"), 10, 64)
	return n
}

// Create implements [vfs.FS].
func (fs *engineFS) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	return fs.write(name, category, func() (vfs.File, error) { return fs.FS.Create(name, category) })
}

// OpenReadWrite implements [vfs.FS].
func (fs *engineFS) OpenReadWrite(name string, category vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	return fs.write(name, category, func() (vfs.File, error) { return fs.FS.OpenReadWrite(name, category, opts...) })
}

// ReuseForWrite implements [vfs.FS]. It renames and opens in two steps, because the second
// may have to be repeated.
func (fs *engineFS) ReuseForWrite(oldname, newname string, category vfs.DiskWriteCategory) (vfs.File, error) {
	if err := fs.Rename(oldname, newname); err != nil {
		return nil, err
	}
	return fs.OpenReadWrite(newname, category)
}

// Rename implements [vfs.FS].
func (fs *engineFS) Rename(oldname, newname string) error {
	return fs.patiently(func() error { return fs.FS.Rename(oldname, newname) })
}

// write opens a file for writing.
func (fs *engineFS) write(name string, category vfs.DiskWriteCategory, open func() (vfs.File, error)) (vfs.File, error) {
	f := &engineFile{fs: fs, kind: kindOf(category)}
	take := func() error {
		return fs.files.take(0, func() (err error) {
			f.File, err = open()
			return err
		})
	}
	var err error
	switch f.kind {
	case flushFile:
		err = fs.pause(f.kind, take())
	case compactionFile:
		if err = fs.room(); err == nil {
			err = take()
		}
		err = fs.pause(f.kind, err)
	default:
		f.number = numberOf(name)
		err = fs.patiently(take)
	}
	if err != nil {
		return nil, err
	}
	return f, nil
}

// Open implements [vfs.FS].
func (fs *engineFS) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	f := &engineFile{fs: fs, kind: readFile}
	err := fs.files.take(readersLeave, func() (err error) {
		f.File, err = fs.FS.Open(name, opts...)
		return err
	})
	if err != nil {
		if outOfDescriptors(err) { // the engine repeats a compaction that cannot read at once
			fs.wait(pollInterval)
		}
		return nil, err
	}
	return f, nil
}

// OpenDir implements [vfs.FS].
func (fs *engineFS) OpenDir(name string) (vfs.File, error) {
	f := &engineFile{fs: fs, kind: otherFile}
	err := fs.patiently(func() error {
		return fs.files.take(0, func() (err error) {
			f.File, err = fs.FS.OpenDir(name)
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	return f, nil
}

// Unwrap implements [vfs.FS].
func (fs *engineFS) Unwrap() vfs.FS { return fs.FS }

// patiently calls do until it succeeds, or fails for a reason other than a lack of room or
// of a descriptor.
func (fs *engineFS) patiently(do func() error) error {
	for {
		err := do()
		if err == nil || !fs.serving.Load() || !diskFull(err) && !outOfDescriptors(err) {
			return err
		}
		fs.report("disk write failed", fmt.Errorf("%w; the store waits and tries again", err))
		if !fs.wait(pollInterval) {
			return err
		}
	}
}

// wait waits for d. ok reports whether the store is still open.
func (fs *engineFS) wait(d time.Duration) (ok bool) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-fs.closed:
		return false
	}
}

// pause returns err, the outcome of a step of a flush or a compaction. If err is not nil,
// it waits first. A flush that fails while the engine is being opened ends the process,
// because the engine would repeat it for ever.
func (fs *engineFS) pause(k fileKind, err error) error {
	if err == nil {
		return nil
	}
	if k == flushFile && !fs.serving.Load() {
		fs.fatal(err)
	}
	fs.wait(retryAfter)
	return err
}

// room returns an error if a compaction must not continue.
func (fs *engineFS) room() error {
	if free := fs.disk.free(); free >= 0 && free < fs.disk.forCompactions() {
		return fmt.Errorf("%w: no room for a compaction (%w)", ErrDiskFull, syscall.ENOSPC)
	}
	return nil
}

// diskFull reports whether err says that the disk, or the quota, is used up.
func diskFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// engineFile is an open file of the engine.
type engineFile struct {
	vfs.File

	// immutable
	fs     *engineFS
	kind   fileKind
	number uint64 // of a log or a MANIFEST

	// owned by the goroutine that writes: numbers of bytes
	written, synced int64
}

// Write implements [vfs.File].
func (f *engineFile) Write(b []byte) (n int, err error) {
	switch f.kind {
	case compactionFile:
		if err := f.fs.room(); err != nil {
			return 0, f.fs.pause(f.kind, err)
		}
		n, err = f.File.Write(b)
		return n, f.fs.pause(f.kind, err)
	case flushFile:
		n, err = f.File.Write(b)
		return n, f.fs.pause(f.kind, err)
	}
	err = f.fs.patiently(func() error {
		k, err := f.File.Write(b[n:])
		n += k
		return err
	})
	f.written += int64(n)
	return n, err
}

// Sync implements [vfs.File].
func (f *engineFile) Sync() error { return f.afterSync(f.File.Sync()) }

// SyncData implements [vfs.File].
func (f *engineFile) SyncData() error { return f.afterSync(f.File.SyncData()) }

// afterSync records how much is durable, or returns err, the outcome of the sync.
func (f *engineFile) afterSync(err error) error {
	switch {
	case err != nil:
		if f.kind == flushFile || f.kind == compactionFile {
			return f.fs.pause(f.kind, err)
		}
		return err
	case f.written == f.synced:
		return nil
	case f.kind == logFile:
		f.fs.marks.note(f.kind, f.number, f.synced)
	case f.kind == manifestFile:
		f.fs.marks.note(f.kind, f.number, f.written)
	}
	f.synced = f.written
	return nil
}

// Close implements [vfs.File].
func (f *engineFile) Close() error {
	defer f.fs.files.closed()
	return f.File.Close()
}
