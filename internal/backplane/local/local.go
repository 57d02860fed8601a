// Package local is the backplane of a broker that runs alone: an embedded store
// that survives power loss, and delivery within the process.
//
// The store is Pebble, an LSM tree with a write-ahead log. Concurrent writes
// share one fsync. Retained messages, signing keys and the store's generation
// are all in it. The other files of the data directory lock it, give its format,
// and record whether it was closed properly.
package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"

	"pubsub"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

var (
	// ErrLocked means that another process, or this one, has the data directory
	// open.
	ErrLocked = errors.New("data directory in use")
	// ErrNewerFormat means that a later release has written the data directory.
	ErrNewerFormat = errors.New("data directory of a newer format")
	// ErrCorrupt means that files in the data directory are damaged. Nothing has
	// been repaired or deleted.
	ErrCorrupt = errors.New("data directory damaged")
	// ErrDirectory means that the data directory cannot be used: it is read-only,
	// its parent is missing, or it is not a directory.
	ErrDirectory = errors.New("data directory unusable")
	// ErrDiskFull means that a message was refused because less than the disk
	// reserve is free.
	ErrDiskFull = errors.New("disk full")
)

// Options are the settings of a [Backplane]. Only Dir or InMemory must be set.
type Options struct {
	// Dir is the data directory. It is created with mode 0700 if it does not exist.
	// Its parent must exist.
	Dir string
	// InMemory keeps everything in memory and ignores Dir.
	InMemory bool
	// FS is the file system that holds Dir; nil means the operating system's.
	FS vfs.FS
	// DiskReserve is the number of bytes to keep free on the disk. With less free
	// space, retained messages are refused with [ErrDiskFull], and the rest is for
	// signing keys and the engine. 0 means 64 MiB. It is limited to an eighth of
	// the disk.
	DiskReserve int64
	// ExpireInterval is the time between two removals of expired messages. 0 means
	// 10 seconds.
	ExpireInterval time.Duration
	// Now returns the time by which messages expire; nil means [time.Now].
	Now func() time.Time
	// Events are called for logs and metrics.
	Events Events
}

// Events are the callbacks of a backplane, for logs and metrics. Each may be nil. Calls
// may overlap. None may block or call the backplane.
type Events struct {
	// Expired reports the removal of n expired messages and markers of clears, which
	// had the given size in total.
	Expired func(n, bytes int64)
	// Unreadable reports, at Open, a record that this release cannot read. All other
	// records work. kind is "key", and name the key's id.
	Unreadable func(kind, name string, err error)
	// Exposed reports, before Open returns, a file or directory of the data directory
	// whose mode gives users other than its owner access. Open removes those permissions
	// from the store's own files if it can.
	Exposed func(path string, mode fs.FileMode)
	// Error reports a failure that the engine survives and retries, such as a compaction
	// without enough disk space. event is a constant. Error may be called for every
	// write.
	Error func(event string, err error)
	// Fatal reports why nothing more can be written. The process exits with status 1 as
	// soon as Fatal returns, because the engine's memory is then ahead of its disk.
	// Everything acknowledged is on disk. If Fatal is nil, the error is written to
	// standard error.
	Fatal func(error)
}

// Stats are figures of a [Backplane].
type Stats struct {
	// Retained is the number of retained messages, including expired ones that have not
	// been removed yet.
	Retained int64
	// RetainedBytes is their size before compression, with topics and properties.
	RetainedBytes int64
	// Markers is the number of markers of clears.
	Markers int64
	// Keys is the number of signing keys.
	Keys int
	// Expired is the number of messages and markers that expired and were removed since
	// Open.
	Expired int64
	// ExpiredBytes is the size of the removed messages and markers.
	ExpiredBytes int64
	// DiskFree is the number of free bytes on the disk, or -1 if it is unknown, as it is
	// in memory.
	DiskFree int64
	// DiskReserve is the reserve in effect, which may be less than
	// [Options.DiskReserve].
	DiskReserve int64
}

// Backplane is a [pubsub.Backplane] for one process. Make it with [Open].
type Backplane struct {
	*store
	*keyring
	*bus

	// immutable
	engine *engine

	closeOnce sync.Once
	closeErr  error // set in closeOnce
}

var _ pubsub.Backplane = (*Backplane)(nil)

// Open opens the data directory, or creates it. It reads every record, to count them
// and to find damage before anything is written: about one second for a million small
// messages. The error is one of this package's, or one of the file system.
func Open(o Options) (*Backplane, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.ExpireInterval <= 0 {
		o.ExpireInterval = 10 * time.Second
	}
	if o.DiskReserve <= 0 {
		o.DiskReserve = 64 << 20
	}
	e, found, err := openEngine(o)
	if err != nil {
		return nil, err
	}
	s, err := newStore(e, o, found)
	if err != nil {
		return nil, errors.Join(err, e.close())
	}
	b := &Backplane{
		store:   s,
		keyring: newKeyring(e, found.keys, found.badKeys),
		bus:     newBus(e.closed),
		engine:  e,
	}
	e.announcer.store, e.announcer.bus = b.store, b.bus
	if o.Events.Unreadable != nil {
		for id, err := range found.badKeys {
			o.Events.Unreadable("key", pubsub.Printable(id), err)
		}
	}
	s.startExpiring(o.ExpireInterval)
	return b, nil
}

// Health returns nil if retained messages and keys can be written and messages can be
// sent. It returns [ErrDiskFull] if retained messages are refused, and
// [pubsub.ErrUnavailable] if the disk has not finished a write for 5 s.
func (b *Backplane) Health(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := b.engine.enter(); err != nil {
		return err
	}
	defer b.engine.leave()
	if err := b.engine.log.stalled(); err != nil {
		return err
	}
	if err := b.engine.disk.take(0, b.engine.disk.forMessages()); err != nil {
		return err
	}
	return b.bus.health()
}

// Stats returns the current figures.
func (b *Backplane) Stats() Stats {
	return Stats{
		Retained:      b.store.figures.retained.Load(),
		RetainedBytes: b.store.figures.retainedBytes.Load(),
		Markers:       b.store.figures.markers.Load(),
		Keys:          b.keyring.count(),
		Expired:       b.store.expired.Load(),
		ExpiredBytes:  b.store.expiredBytes.Load(),
		DiskFree:      b.engine.disk.free(),
		DiskReserve:   b.engine.disk.reserve,
	}
}

// Close waits for pending writes, stops the background goroutines and closes the files.
// Later calls, and a Run or WatchKeys under way, return [pubsub.ErrClosed]. A second
// Close returns the error of the first.
//
// If the disk does not let Close finish within closeWait, it returns an error and
// abandons the rest. The process must then exit, as if it had been killed.
func (b *Backplane) Close() error {
	b.closeOnce.Do(func() {
		done := make(chan error, 1)
		go func() {
			b.engine.shut()
			b.store.stopExpiring()
			b.bus.drain()
			done <- b.engine.close()
		}()
		late := time.NewTimer(closeWait)
		defer late.Stop()
		select {
		case b.closeErr = <-done:
		case <-late.C:
			b.closeErr = fmt.Errorf("%w: cannot close %s within %v because its disk does not respond; nothing acknowledged is lost",
				ErrDirectory, b.engine.dir.path, closeWait)
		}
	})
	return b.closeErr
}

// closeWait bounds how long Close takes.
const closeWait = 15 * time.Second

// engine is the open database with its directory, its file system and its gate.
type engine struct {
	// immutable
	db        *pebble.DB
	dir       *directory
	disk      *disk
	log       *committer
	fs        *engineFS
	announcer *announcer
	fatal     func(error)
	report    reporter      // Events.Error
	closed    chan struct{} // closed by shut

	gate     sync.RWMutex // held for reading by every call that uses db
	shutDown bool         // guarded by gate
}

// openingBytes is room for the small files that the engine writes when it is opened: a
// MANIFEST, an OPTIONS file and the beginning of a log.
const openingBytes = 64 << 10

// openEngine opens the directory, checks the database in it for damage and opens it.
func openEngine(o Options) (*engine, contents, error) {
	fs, dirname := o.FS, o.Dir
	switch {
	case o.InMemory:
		fs, dirname = vfs.NewMem(), "/"
	case dirname == "":
		return nil, contents{}, fmt.Errorf("%w: no directory given", ErrDirectory)
	}
	dir, err := openDirectory(fs, dirname)
	if err != nil {
		return nil, contents{}, err
	}
	e := &engine{dir: dir, closed: make(chan struct{})}
	e.fatal = func(err error) { die(o.Events, dir.path, err) }
	e.disk = newDisk(dir.fs, dir.path, o.DiskReserve)
	e.report = func(event string, err error) {
		if o.Events.Error != nil {
			o.Events.Error(event, fmt.Errorf("store %s: %w", dir.store, err))
		}
	}
	dir.protect(o.Events.Exposed)
	found, err := inspect(dir, e.disk.total)
	if err == nil {
		err = e.disk.take(0, found.unflushed+openingBytes)
	}
	if err == nil {
		err = e.openDatabase(!found.exists)
	}
	if err != nil {
		return nil, found, errors.Join(err, dir.close())
	}
	e.announcer = &announcer{}
	e.log = newCommitter(e.db, e.announcer.add, e.fatal)
	return e, found, nil
}

// openDatabase opens the database in the directory, or creates it.
func (e *engine) openDatabase(isNew bool) (err error) {
	if err := e.dir.markOpen(); err != nil {
		return err
	}
	if isNew {
		if err := e.makeDatabase(); err != nil {
			return err
		}
	}
	files := &descriptors{}
	if e.dir.real {
		files = newDescriptors()
	}
	e.fs = &engineFS{
		FS: e.dir.fs, disk: e.disk, files: files, marks: openSyncMarks(e.dir),
		closed: e.closed, report: e.report, fatal: e.fatal,
	}
	opts := engineOptions(e.dir, e.disk.total, files.tables(), e.report, e.fatal)
	opts.FS = e.fs
	if e.db, err = pebble.Open(e.dir.store, opts); err != nil {
		files.release()
		return errors.Join(openError(e.dir, err), e.fs.marks.close())
	}
	e.fs.serving.Store(true)
	return nil
}

// makeDatabase creates the files of a new database under another name and renames the
// directory, because the engine cannot open a half-made database. openDatabase then opens
// the database a second time, so its first log does not have the old format that the
// engine begins with.
func (e *engine) makeDatabase() error {
	fs, tmp := e.dir.fs, e.dir.store+".new"
	if err := fs.RemoveAll(tmp); err != nil {
		return fmt.Errorf("%w: cannot remove %s: %w", ErrDirectory, tmp, err)
	}
	db, err := pebble.Open(tmp, engineOptions(e.dir, e.disk.total, maxTables, e.report, e.fatal))
	if err == nil {
		err = db.Close()
	}
	if err != nil {
		return openError(e.dir, err)
	}
	if err := fs.RemoveAll(e.dir.store); err != nil {
		return fmt.Errorf("%w: cannot remove %s: %w", ErrDirectory, e.dir.store, err)
	}
	if err := fs.Rename(tmp, e.dir.store); err != nil {
		return fmt.Errorf("%w: cannot create %s: %w", ErrDirectory, e.dir.store, err)
	}
	return syncDirectory(fs, e.dir.path)
}

// die reports a failed write and exits.
func die(ev Events, path string, err error) {
	err = fmt.Errorf("cannot write to the data directory %s: %w; check the disk and start again: nothing acknowledged is lost", path, err)
	if ev.Fatal != nil {
		ev.Fatal(err)
	} else {
		fmt.Fprintln(os.Stderr, "pubsub:", err)
	}
	os.Exit(1)
}

// enter must precede any use of the database, and leave must follow. It returns
// [pubsub.ErrClosed] once shut was called; leave must not be called then.
func (e *engine) enter() error {
	e.gate.RLock()
	if e.shutDown {
		e.gate.RUnlock()
		return pubsub.ErrClosed
	}
	return nil
}

func (e *engine) leave() { e.gate.RUnlock() }

// shut makes enter fail and waits until every call that has entered has left.
func (e *engine) shut() {
	close(e.closed)
	e.gate.Lock()
	e.shutDown = true
	e.gate.Unlock()
}

// close waits for pending writes and closes the files.
func (e *engine) close() error {
	e.log.close()
	e.announcer.wait()
	err := errors.Join(e.db.Close(), e.fs.marks.close())
	e.fs.files.release()
	if err == nil {
		// Without the mark the next Open is only less strict, so Close does not fail.
		if err := e.dir.markClosed(); err != nil {
			e.report("store close failed", err)
		}
	}
	return errors.Join(err, e.dir.close())
}
