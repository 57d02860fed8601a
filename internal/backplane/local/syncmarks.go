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

// syncMarks is the file SYNCED in the engine's directory. It records how much of the
// newest log and of the MANIFEST is known to be on disk, to distinguish damage, such as a
// lost end, from the traces of a crash. The engine's own files do not show this: the
// offsets in its log lag behind, by nearly the whole log if messages are large, and no
// file records its own length.
//
// A mark is written after each sync of its file and never synced itself. A mark that
// survives a crash is true. The mark of a log covers the bytes up to the sync before the
// last one, because a torn last write is not damage.
type syncMarks struct {
	file vfs.File // nil if marks are not written
}

// syncMark records that the first size bytes of the file with that number are on disk.
type syncMark struct {
	number uint64 // 0 if there is no mark
	size   int64
}

const (
	marksName  = "SYNCED"
	markBytes  = 8 + 8 + 4 // number, size, CRC, big-endian
	markStride = 32        // the log's mark is at offset 0, the MANIFEST's at this one
)

// openSyncMarks opens the file for writing. If that fails, no marks are written, and the
// next Open detects less damage.
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
	// A failed write leaves an older mark, which is still true, or a torn one, which does
	// not count.
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

// readSyncMarks reads the marks of the last run.
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
