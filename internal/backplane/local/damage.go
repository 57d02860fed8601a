package local

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	iofs "io/fs"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"pubsub"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/batchrepr"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// The engine takes the first invalid piece of a MANIFEST, and often that of a
// log, for the end of what was written before a crash, and goes on without the
// rest. That is right for a torn end and wrong for a damaged middle, after which
// it would delete the tables that it has forgotten. So the files are looked
// through before it opens them.
//
// Both are made of blocks of 32 KiB, and these of chunks that do not cross them:
//
//	CRC 4 · length 2 · kind 1 [· number of the log 4 [· bytes synced before 8]] · payload
//
// little-endian; the CRC is over what follows the length.
const blockBytes = 32 << 10

// chunkKind says what a chunk is and how long its header is.
type chunkKind struct {
	header int
	starts bool // a record begins here
	ends   bool // a record ends here
}

// chunkKinds has the kinds 1 to 12: full, first, middle and last, three times.
var chunkKinds = func() (k [13]chunkKind) {
	for i := 1; i < len(k); i++ {
		part := (i - 1) % 4
		k[i] = chunkKind{header: []int{7, 11, 19}[(i-1)/4], starts: part < 2, ends: part == 0 || part == 3}
	}
	return k
}()

// chunk is a valid chunk.
type chunk struct {
	kind    chunkKind
	end     int // offset in the block
	log     uint32
	synced  uint64 // bytes of the log that were synced before it was written
	payload []byte
}

// parseChunk reads the chunk at offset i of a block; ok is false if there is no
// valid one.
func parseChunk(block []byte, i int) (c chunk, ok bool) {
	if len(block)-i < 7 {
		return c, false
	}
	kind := block[i+6]
	if kind == 0 || int(kind) >= len(chunkKinds) {
		return c, false
	}
	c.kind = chunkKinds[kind]
	c.end = i + c.kind.header + int(binary.LittleEndian.Uint16(block[i+4:]))
	if c.end > len(block) || maskedCRC(block[i+6:c.end]) != binary.LittleEndian.Uint32(block[i:]) {
		return c, false
	}
	c.payload = block[i+c.kind.header : c.end]
	if c.kind.header >= 11 {
		c.log = binary.LittleEndian.Uint32(block[i+7:])
	}
	if c.kind.header >= 19 {
		c.synced = binary.LittleEndian.Uint64(block[i+11:])
	}
	return c, true
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func maskedCRC(b []byte) uint32 {
	c := crc32.Checksum(b, castagnoli)
	return (c>>15 | c<<17) + 0xa282ead8
}

// checkFiles looks for damage in the middle of the MANIFEST and of the logs;
// exists is false if there is no database yet.
func checkFiles(d *directory) (exists bool, err error) {
	names, err := d.fs.List(d.store)
	if errors.Is(err, iofs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("%w: %s: %w", ErrDirectory, d.store, err)
	}
	desc, err := pebble.Peek(d.store, d.fs)
	if err != nil {
		return false, openError(d, err)
	}
	if !desc.Exists {
		for _, name := range names {
			if strings.HasSuffix(name, ".log") || strings.HasSuffix(name, ".sst") {
				// The engine would begin anew and delete them.
				return false, fmt.Errorf("%w: %s has %s, and the file marker.manifest.* that says which MANIFEST counts is missing; %s", ErrCorrupt, d.store, name, wayOut)
			}
		}
		return false, nil
	}
	if !slices.ContainsFunc(names, func(name string) bool { return strings.HasPrefix(name, "marker.format-version.") }) {
		return true, fmt.Errorf("%w: the file marker.format-version.* is missing in %s; %s", ErrCorrupt, d.store, wayOut)
	}
	log, manifest, err := readSyncMarks(d)
	if err != nil {
		return true, err
	}
	if manifest.number != numberOf(desc.ManifestFilename) {
		manifest.size = 0
	}
	// Every edit is synced before the next is written: where a record begins, all
	// before it was whole.
	if err := checkChunks(d, desc.ManifestFilename, manifest.size, func(_ int64, c chunk) bool { return c.kind.starts }); err != nil {
		return true, err
	}
	if err := checkLogs(d, names, log); err != nil {
		return true, err
	}
	return true, checkOptions(d, names)
}

// checkLogs looks for damage in the logs among names.
func checkLogs(d *directory, names []string, synced syncMark) error {
	closed := d.wasClosed()
	var newest uint64
	for _, name := range names {
		digits, ok := strings.CutSuffix(name, ".log")
		n, notLog := strconv.ParseUint(digits, 10, 64)
		if !ok || notLog != nil {
			continue
		}
		newest = max(newest, n)
		path := d.fs.PathJoin(d.store, name)
		if closed {
			if err := checkClosedLog(d, path, uint32(n)); err != nil {
				return err
			}
			continue
		}
		var size int64
		if n == synced.number {
			size = synced.size
		}
		err := checkChunks(d, path, size, func(bad int64, c chunk) bool {
			return c.log == uint32(n) && c.synced > uint64(bad)
		})
		if err != nil {
			return err
		}
	}
	if newest < synced.number {
		// An older one may have been deleted, but not before a newer one was there.
		return fmt.Errorf("%w: %s is missing; %s", ErrCorrupt, d.fs.PathJoin(d.store, fmt.Sprintf("%06d.log", synced.number)), wayOut)
	}
	return nil
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
	ignore := func(error) {}
	o := engineOptions(d, 0, maxTables, ignore, ignore)
	o.EnsureDefaults()
	if err := o.CheckCompatibility(d.store, string(text)); err != nil {
		return fmt.Errorf("%w: %s: %w; delete that file, in which nothing is kept, or restore it from a backup", ErrCorrupt, path, err)
	}
	return nil
}

// checkClosedLog reads the log numbered n of a store that was closed: it must be
// whole up to the trailer with which the engine ends a log. What comes after that
// is left from an older log of which the file was.
func checkClosedLog(d *directory, name string, n uint32) error {
	f, err := openFile(d, name)
	if err != nil {
		return err
	}
	defer f.Close()
	order := recordOrder{log: true}
	block := make([]byte, blockBytes)
	for start := int64(0); ; start += blockBytes {
		size, err := io.ReadFull(f, block)
		if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
			return fmt.Errorf("%w: %s: %w", ErrDirectory, name, err)
		}
		i := 0
		for i < size && !padding(block[i:size]) {
			if isTrailer(block[i:size], n) {
				return nil
			}
			c, ok := parseChunk(block[:size], i)
			if !ok || c.log != n || !order.follows(c) {
				return fmt.Errorf("%w: %s at offset %d; %s", ErrCorrupt, name, start+int64(i), wayOut)
			}
			i = c.end
		}
		if size < blockBytes {
			return fmt.Errorf("%w: %s ends at offset %d before its end; %s", ErrCorrupt, name, start+int64(i), wayOut)
		}
	}
}

// trailerBytes is the length of the trailer of a log.
const trailerBytes = 11

// isTrailer reports whether b begins with the trailer of the log numbered n: an
// empty chunk of kind 5, without a CRC, which has the number of the next log.
func isTrailer(b []byte, n uint32) bool {
	return len(b) >= trailerBytes && bytes.Equal(b[:7], []byte{6: 5}) && binary.LittleEndian.Uint32(b[7:]) == n+1
}

func openFile(d *directory, name string) (vfs.File, error) {
	f, err := d.fs.Open(name)
	if errors.Is(err, iofs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s is missing; %s", ErrCorrupt, name, wayOut)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDirectory, err)
	}
	return f, nil
}

// checkChunks reads a file up to its first invalid chunk. If that lies within the
// first synced bytes, or a later chunk proves that what is invalid was once whole, the
// file is damaged. So it is if the valid chunks before it do not follow on each other.
func checkChunks(d *directory, name string, synced int64, proves func(bad int64, c chunk) bool) error {
	f, err := openFile(d, name)
	if err != nil {
		return err
	}
	defer f.Close()
	damage := func(at int64) error {
		return fmt.Errorf("%w: %s at offset %d; %s", ErrCorrupt, name, at, wayOut)
	}
	log := uint32(numberOf(name))
	order := recordOrder{log: strings.HasSuffix(name, ".log")}
	block := make([]byte, blockBytes)
	bad := int64(-1) // offset of the first invalid chunk
	for start := int64(0); ; start += blockBytes {
		n, err := io.ReadFull(f, block)
		if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
			return fmt.Errorf("%w: %s: %w", ErrDirectory, name, err)
		}
		for i := 0; i < n; {
			c, ok := parseChunk(block[:n], i)
			own := ok && (c.log == log || c.kind.header < 11) // else it is left from an older log
			at := start + int64(i)
			switch {
			case own && c.synced > uint64(at):
				return damage(at) // some of what came before it is gone
			case own && bad >= 0 && proves(bad, c):
				return damage(bad)
			case own && bad < 0 && !order.follows(c):
				return damage(at)
			case own:
				i = c.end
			case bad < 0 && padding(block[i:n]):
				i = n
			case bad < 0 && isTrailer(block[i:n], log) && at+trailerBytes >= synced:
				return nil // what follows is left from an older log
			case at < synced && bad < 0:
				return damage(at)
			default:
				if bad < 0 {
					bad = at
				}
				if ok {
					i = c.end
				} else {
					i++
				}
			}
		}
		if n < blockBytes {
			if end := start + int64(n); end < synced {
				return fmt.Errorf("%w: %s ends at offset %d, and %d bytes of it were on disk; %s", ErrCorrupt, name, end, synced, wayOut)
			}
			return nil
		}
	}
}

// recordOrder checks that chunks follow on each other: in a record, and the records of
// a log by the numbers that the engine gave their changes.
type recordOrder struct {
	log    bool   // the file is a log
	within bool   // a record has begun and not ended
	record []byte // of a log, what came of it
	next   uint64 // the number of the next change; 0 before the first record
}

// follows reports whether c may come next.
func (o *recordOrder) follows(c chunk) bool {
	if c.kind.starts == o.within {
		return false
	}
	o.within = !c.kind.ends
	if !o.log {
		return true
	}
	if c.kind.starts {
		o.record = o.record[:0]
	}
	o.record = append(o.record, c.payload...)
	return o.within || o.batch(o.record)
}

// batch reports whether b is a whole batch and the next one.
func (o *recordOrder) batch(b []byte) bool {
	h, ok := batchrepr.ReadHeader(b)
	if !ok || o.next != 0 && uint64(h.SeqNum) != o.next {
		return false
	}
	o.next = uint64(h.SeqNum) + uint64(h.Count)
	changes := batchrepr.Read(b)
	for range h.Count {
		if _, _, _, ok, err := changes.Next(); !ok || err != nil {
			return false
		}
	}
	return len(changes) == 0
}

// padding reports whether b, the rest of a block, is zeros that stand where no
// chunk fits.
func padding(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return len(b) < 19
}

// checkTables reads every block of every table that db uses: those of filters are read
// by nothing else before a client asks for a topic.
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
		return fmt.Errorf("%w: %s: %w; %s", ErrCorrupt, path, err, wayOut)
	}
	return nil
}

// wayOut is what can be done about damage.
const wayOut = "restore the directory from a backup, or name a new one"

// damaged marks an error of the engine that tells of damaged files. It names the file
// where the engine does. An error that only says that there is no descriptor for a
// table now is [pubsub.ErrUnavailable].
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
		return fmt.Errorf("%w: %s: %w; %s", ErrCorrupt, i.Path, i.Details, wayOut)
	}
	return fmt.Errorf("%w: %w; %s", ErrCorrupt, err, wayOut)
}

// missingTable finds the number of a missing table in an error of the engine.
var missingTable = regexp.MustCompile(`file (\d+) \(type sstable\) unknown`)

// openError says what an error of opening the engine means to an operator.
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
		return fmt.Errorf("%w: %s is missing; %s", ErrCorrupt, d.fs.PathJoin(d.store, name[1]+".sst"), wayOut)
	}
	// What is left is that the files do not fit together.
	return fmt.Errorf("%w: cannot open %s: %w; %s", ErrCorrupt, d.store, err, wayOut)
}
