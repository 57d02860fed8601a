// Package local is the backplane of a broker that runs alone: an embedded store
// that survives power loss, and delivery within the process.
//
// The store is Pebble, an LSM tree with a write-ahead log. Concurrent writes
// share one fsync. Retained messages, signing keys and the store's generation
// are all in it; what else the data directory holds says who may open it, and how
// it was left.
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
	// ErrLocked says that another process, or this one, has the data directory
	// open.
	ErrLocked = errors.New("data directory in use")
	// ErrNewerFormat says that a later release has written the data directory.
	ErrNewerFormat = errors.New("data directory of a newer format")
	// ErrCorrupt says that files in the data directory are damaged. Nothing has
	// been repaired or deleted.
	ErrCorrupt = errors.New("data directory damaged")
	// ErrDirectory says that the data directory cannot be used: it is read-only,
	// its parent is missing, or it is no directory.
	ErrDirectory = errors.New("data directory unusable")
	// ErrDiskFull says that a message was refused because less than the disk
	// reserve is free.
	ErrDiskFull = errors.New("disk full")
)

// Options are the settings of a [Backplane]. Only Dir or InMemory must be set.
type Options struct {
	// Dir is the data directory. It is made, with mode 0700, if it is not there;
	// its parent must be.
	Dir string
	// InMemory keeps everything in memory; Dir is then not used.
	InMemory bool
	// FS is the file system that holds Dir; nil is the operating system's.
	FS vfs.FS
	// DiskReserve is how many bytes are kept free on the disk: below it retained
	// messages are refused with [ErrDiskFull], and what is left is for signing
	// keys and the engine. 0 is 64 MiB. On a disk so small that this is more
	// than an eighth of it, it is an eighth.
	DiskReserve int64
	// ExpireInterval is the time between two sweeps of expired messages. 0 is 10
	// seconds.
	ExpireInterval time.Duration
	// Now tells the time by which messages expire; nil is [time.Now].
	Now func() time.Time
	// Events tells what happens within.
	Events Events
}

// Events are calls about what happens within a backplane, for logs and metrics.
// Each may be nil; they may overlap; none may block or call the backplane.
type Events struct {
	// Expired follows a sweep that has removed n messages and markers of clears,
	// which took up so many bytes.
	Expired func(n, bytes int64)
	// Unreadable reports, at Open, a record that this release cannot read. All other
	// records work. kind is key, and name the key's id.
	Unreadable func(kind, name string, err error)
	// Exposed reports, before Open returns, a file or directory of the data directory
	// whose mode lets others than its owner use it. Open removes those permissions from
	// the store's own files if it can.
	Exposed func(path string, mode fs.FileMode)
	// Error reports trouble that the engine lives with and works on, such as a
	// compaction that failed for lack of disk space. The event names it in a few
	// constant words. Error may be called for every write.
	Error func(event string, err error)
	// Fatal is told why nothing more can be written. The process then exits
	// with status 1 as soon as Fatal returns: going on would show as kept what
	// is not. What was acknowledged is on disk. If it is nil, the reason is
	// written to standard error.
	Fatal func(error)
}

// Stats are figures of a [Backplane].
type Stats struct {
	// Retained is how many retained messages there are, those that have expired
	// and wait for the next sweep included.
	Retained int64
	// RetainedBytes is what they take up, topics and properties included, before
	// compression.
	RetainedBytes int64
	// Markers is how many markers of clears there are.
	Markers int64
	// Keys is how many signing keys there are.
	Keys int
	// Expired is how many messages and markers sweeps have removed since Open.
	Expired int64
	// ExpiredBytes is what they took up.
	ExpiredBytes int64
	// DiskFree is how many bytes are free on the disk; -1 if that is unknown, as
	// it is in memory.
	DiskFree int64
	// DiskReserve is [Options.DiskReserve] as it was applied.
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

// Open opens the data directory, or makes it. It reads every record there is,
// to count them and to find damage before it is built upon: about one second
// for a million small messages. The error is one of this package's, or an error
// of the file system.
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
	e.late.store, e.late.bus = b.store, b.bus
	if o.Events.Unreadable != nil {
		for id, err := range found.badKeys {
			o.Events.Unreadable("key", pubsub.Printable(id), err)
		}
	}
	s.startExpiring(o.ExpireInterval)
	return b, nil
}

// Health returns nil if retained messages and keys can be written and messages
// be sent; [ErrDiskFull] if retained messages are refused; [pubsub.ErrUnavailable] if
// the disk has not finished a write for 5 s.
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

// Stats returns the figures of now.
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

// Close waits for the writes that were begun, ends what runs in the background
// and closes the files. Calls made later return [pubsub.ErrClosed]; so does a
// Run or WatchKeys that is under way. A second Close does nothing.
//
// If the disk does not let Close finish within closeWait, it returns an error and
// abandons the rest. The process must end then, as if it had been killed.
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
			b.closeErr = fmt.Errorf("%w: the disk of %s has not let the store be closed within %v; nothing acknowledged is lost",
				ErrDirectory, b.engine.dir.path, closeWait)
		}
	})
	return b.closeErr
}

// closeWait bounds how long Close takes.
const closeWait = 15 * time.Second

// engine is the open database with what guards it.
type engine struct {
	// immutable
	db     *pebble.DB
	dir    *directory
	disk   *disk
	log    *committer
	fs     *engineFS
	late   *announcer
	fatal  func(error)
	report reporter      // Events.Error
	closed chan struct{} // closed by shut

	gate     sync.RWMutex // held for reading by every call that uses db
	shutDown bool         // guarded by gate

}

// openingTakes is room for the small files that the engine writes when it is opened: a
// MANIFEST, an OPTIONS file and the beginning of a log.
const openingTakes = 64 << 10

// openEngine opens the directory and the database in it, once that has been
// found whole.
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
		err = e.disk.take(0, found.unflushed+openingTakes)
	}
	if err == nil {
		err = e.openDatabase(!found.exists)
	}
	if err != nil {
		return nil, found, errors.Join(err, dir.close())
	}
	e.late = &announcer{}
	e.log = newCommitter(e.db, e.late.add, e.fatal)
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

// makeDatabase makes the files of a new database, all at once, because the engine cannot
// open a database whose making was interrupted. The database is opened a second time
// afterwards, so its first log does not have the old format that the engine begins with.
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
		return fmt.Errorf("%w: cannot make %s: %w", ErrDirectory, e.dir.store, err)
	}
	return syncDirectory(fs, e.dir.path)
}

// die ends the process after a failure that nothing can be built upon.
func die(ev Events, path string, err error) {
	err = fmt.Errorf("the data directory %s cannot be written any more: %w; see to the disk and start again: nothing acknowledged is lost", path, err)
	if ev.Fatal != nil {
		ev.Fatal(err)
	} else {
		fmt.Fprintln(os.Stderr, "pubsub:", err)
	}
	os.Exit(1)
}

// enter lets a call in that uses the database, unless it is closed; each
// successful enter is followed by one leave.
func (e *engine) enter() error {
	e.gate.RLock()
	if e.shutDown {
		e.gate.RUnlock()
		return pubsub.ErrClosed
	}
	return nil
}

func (e *engine) leave() { e.gate.RUnlock() }

// shut lets nobody in any more and waits for those who are.
func (e *engine) shut() {
	close(e.closed)
	e.gate.Lock()
	e.shutDown = true
	e.gate.Unlock()
}

// close waits for the writes under way and closes the files.
func (e *engine) close() error {
	e.log.close()
	e.late.wait()
	err := errors.Join(e.db.Close(), e.fs.marks.close())
	e.fs.files.release()
	if err == nil {
		// Without the mark the next Open is less strict: no reason to fail.
		if err := e.dir.markClosed(); err != nil {
			e.report("store close failed", err)
		}
	}
	return errors.Join(err, e.dir.close())
}
