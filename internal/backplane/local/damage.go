package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"pubsub"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// checkFiles looks for damage that the engine would not notice. exists reports whether
// there is a database. logs are its logs.
func checkFiles(d *directory) (logs logList, exists bool, err error) {
	names, err := d.fs.List(d.store)
	if errors.Is(err, iofs.ErrNotExist) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("%w: %s: %w", ErrDirectory, d.store, err)
	}
	desc, err := pebble.Peek(d.store, d.fs)
	if err != nil {
		return nil, false, openError(d, err)
	}
	if !desc.Exists {
		for _, name := range names {
			if strings.HasSuffix(name, ".log") || strings.HasSuffix(name, ".sst") {
				// The engine would create a new database and delete them.
				return nil, false, fmt.Errorf("%w: %s contains %s, but no file marker.manifest.* that names the current MANIFEST; %s", ErrCorrupt, d.store, name, remedy)
			}
		}
		return nil, false, nil
	}
	if !slices.ContainsFunc(names, func(name string) bool { return strings.HasPrefix(name, "marker.format-version.") }) {
		return nil, true, fmt.Errorf("%w: the file marker.format-version.* is missing in %s; %s", ErrCorrupt, d.store, remedy)
	}
	log, manifest, err := readSyncMarks(d)
	if err != nil {
		return nil, true, err
	}
	if manifest.number != numberOf(desc.ManifestFilename) {
		manifest.size = 0
	}
	// The engine syncs every edit before it writes the next one, so the beginning of a
	// record proves that everything before it was complete.
	if _, err := checkChunks(d, desc.ManifestFilename, manifest.size, func(_ int64, c chunk) bool { return c.kind.starts }); err != nil {
		return nil, true, err
	}
	if logs, err = checkLogs(d, names, log); err != nil {
		return nil, true, err
	}
	return logs, true, checkOptions(d, names)
}

// checkOptions checks that the engine will read the newest OPTIONS file among names.
func checkOptions(d *directory, names []string) error {
	var newest string
	for _, name := range names {
		if digits, ok := strings.CutPrefix(name, "OPTIONS-"); ok && len(digits) == 6 {
			newest = max(newest, name)
		}
	}
	if newest == "" {
		return nil
	}
	path := d.fs.PathJoin(d.store, newest)
	f, err := openFile(d, path)
	if err != nil {
		return err
	}
	defer f.Close()
	text, err := io.ReadAll(f)
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrDirectory, path, err)
	}
	o := engineOptions(d, 0, maxTables, func(string, error) {}, func(error) {})
	o.EnsureDefaults()
	if err := o.CheckCompatibility(d.store, string(text)); err != nil {
		return fmt.Errorf("%w: %s: %w; delete that file, which holds no data, or restore it from a backup", ErrCorrupt, path, err)
	}
	return nil
}

func openFile(d *directory, name string) (vfs.File, error) {
	f, err := d.fs.Open(name)
	if errors.Is(err, iofs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s is missing; %s", ErrCorrupt, name, remedy)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDirectory, err)
	}
	return f, nil
}

// checkTables reads every block of every table that db uses, because nothing else reads
// the blocks of filters before a client asks for a topic.
func checkTables(d *directory, db *pebble.DB, o *pebble.Options) error {
	levels, err := db.SSTables()
	if err != nil {
		return damaged(err)
	}
	for _, tables := range levels {
		for _, t := range tables {
			path := d.fs.PathJoin(d.store, t.BackingSSTNum.String()+".sst")
			ro := o.MakeReaderOptions()
			ro.CacheOpts.FileNum = t.BackingSSTNum // for errors
			if err := checkTable(d, path, ro); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkTable reads every block of a table.
func checkTable(d *directory, path string, o sstable.ReaderOptions) error {
	f, err := openFile(d, path)
	if err != nil {
		return err
	}
	in, err := sstable.NewSimpleReadable(f)
	if err != nil {
		return errors.Join(fmt.Errorf("%w: %s: %w", ErrDirectory, path, err), f.Close())
	}
	r, err := sstable.NewReader(context.Background(), in, o)
	if err != nil {
		err = errors.Join(err, in.Close())
	} else {
		err = errors.Join(r.ValidateBlockChecksums(), r.Close())
	}
	if err != nil {
		return fmt.Errorf("%w: %s: %w; %s", ErrCorrupt, path, err, remedy)
	}
	return nil
}

// remedy is the advice in errors about damage.
const remedy = "restore the directory from a backup, or use another one"

// damaged marks an error of the engine about damaged files as [ErrCorrupt]. It names the
// file if the engine does. An error that only reports a lack of descriptors for a table
// becomes [pubsub.ErrUnavailable].
func damaged(err error) error {
	switch {
	case err == nil:
		return nil
	case outOfDescriptors(err):
		return fmt.Errorf("%w: %w", pubsub.ErrUnavailable, err)
	case !pebble.IsCorruptionError(err):
		return err
	}
	if i := pebble.ExtractDataCorruptionInfo(err); i != nil {
		return fmt.Errorf("%w: %s: %w; %s", ErrCorrupt, i.Path, i.Details, remedy)
	}
	return fmt.Errorf("%w: %w; %s", ErrCorrupt, err, remedy)
}

// missingTable finds the number of a missing table in an error of the engine.
var missingTable = regexp.MustCompile(`file (\d+) \(type sstable\) unknown`)

// openError converts an error of opening the engine into one of this package's, with
// advice for the operator.
func openError(d *directory, err error) error {
	var errno syscall.Errno
	switch {
	case diskFull(err):
		return fmt.Errorf("%w: cannot open %s: %w; make room", ErrDiskFull, d.store, err)
	case errors.As(err, &errno) && errno != syscall.ENOENT:
		return fmt.Errorf("%w: cannot open %s: %w", ErrDirectory, d.store, err)
	}
	if pebble.ExtractDataCorruptionInfo(err) != nil {
		return damaged(err)
	}
	if name := missingTable.FindStringSubmatch(err.Error()); name != nil {
		return fmt.Errorf("%w: %s is missing; %s", ErrCorrupt, d.fs.PathJoin(d.store, name[1]+".sst"), remedy)
	}
	// In all other cases the files do not fit together.
	return fmt.Errorf("%w: cannot open %s: %w; %s", ErrCorrupt, d.store, err, remedy)
}
