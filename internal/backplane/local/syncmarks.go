package local

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	iofs "io/fs"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// syncMarks is the file SYNCED among those of the engine. It says how far the newest
// log and the MANIFEST are known to be on disk, so that damage to them, a lost end
// included, can be told from what a crash leaves. The engine's own files cannot: the
// offsets in its log lag, by nearly all of it where messages are large, and where a
// file ends nothing says.
//
// A mark is written after each sync of its file and never synced itself. Whatever
// becomes of it in a crash, one that is there is true. The mark of a log goes as far as
// the sync before the last one: the last write may be torn without being damage.
type syncMarks struct {
	file vfs.File // nil marks nothing
}

// syncMark says that the first size bytes of the file with that number are on disk.
type syncMark struct {
	number uint64 // 0 if there is no mark
	size   int64
}

const (
	marksName = "SYNCED"
	markBytes = 8 + 8 + 4 // number, size, CRC, big-endian
	// The marks are this far apart, that of the log first.
	markStride = 32
)

// openSyncMarks opens the file for writing. Without it damage is noticed less well, and
// nothing else is lost.
func openSyncMarks(d *directory) *syncMarks {
	f, err := d.fs.OpenReadWrite(d.fs.PathJoin(d.store, marksName), vfs.WriteCategoryUnspecified)
	if err != nil {
		return &syncMarks{}
	}
	return &syncMarks{file: f}
}

// note writes the mark of a log or a MANIFEST.
func (s *syncMarks) note(k fileKind, number uint64, size int64) {
	if s.file == nil {
		return
	}
	b := make([]byte, 0, markBytes)
	b = binary.BigEndian.AppendUint64(b, number)
	b = binary.BigEndian.AppendUint64(b, uint64(size))
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	// A mark that was not written leaves an older one, which is true as well, or a torn
	// one, which does not count.
	_, _ = s.file.WriteAt(b, markOffset(k))
}

func (s *syncMarks) close() error {
	if s.file == nil {
		return nil
	}
	return s.file.Close()
}

func markOffset(k fileKind) int64 {
	if k == manifestFile {
		return markStride
	}
	return 0
}

// readSyncMarks reads the marks that were left.
func readSyncMarks(d *directory) (log, manifest syncMark, err error) {
	name := d.fs.PathJoin(d.store, marksName)
	f, err := d.fs.Open(name)
	if errors.Is(err, iofs.ErrNotExist) {
		return log, manifest, nil
	}
	if err != nil {
		return log, manifest, fmt.Errorf("%w: %w", ErrDirectory, err)
	}
	defer f.Close()
	b := make([]byte, markStride+markBytes)
	n, err := io.ReadFull(f, b)
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return log, manifest, fmt.Errorf("%w: %s: %w", ErrDirectory, name, err)
	}
	return parseMark(b[:n], markOffset(logFile)), parseMark(b[:n], markOffset(manifestFile)), nil
}

func parseMark(b []byte, at int64) (m syncMark) {
	if int64(len(b)) < at+markBytes {
		return m
	}
	b = b[at : at+markBytes]
	if crc32.Checksum(b[:16], castagnoli) != binary.BigEndian.Uint32(b[16:]) {
		return m
	}
	return syncMark{number: binary.BigEndian.Uint64(b), size: int64(binary.BigEndian.Uint64(b[8:]))}
}
