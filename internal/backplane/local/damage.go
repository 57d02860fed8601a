package local

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	iofs "io/fs"
	"strconv"
	"strings"
	"syscall"

	"github.com/cockroachdb/pebble/v2"
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
}

// chunkKinds has the kinds 1 to 12: full, first, middle and last, three times.
var chunkKinds = func() (k [13]chunkKind) {
	for i := 1; i < len(k); i++ {
		k[i] = chunkKind{header: []int{7, 11, 19}[(i-1)/4], starts: (i-1)%4 < 2}
	}
	return k
}()

// chunk is a valid chunk.
type chunk struct {
	kind   chunkKind
	end    int // offset in the block
	log    uint32
	synced uint64 // bytes of the log that were synced before it was written
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
				return false, fmt.Errorf("%w: %s has %s, and nothing says which MANIFEST counts; %s", ErrCorrupt, d.store, name, wayOut)
			}
		}
		return false, nil
	}
	// Every edit is synced before the next is written: where a record begins, all
	// before it was whole.
	err = checkChunks(d, desc.ManifestFilename, func(_ int64, c chunk) bool { return c.kind.starts })
	closed := d.wasClosed()
	for _, name := range names {
		digits, ok := strings.CutSuffix(name, ".log")
		n, notLog := strconv.ParseUint(digits, 10, 64)
		if !ok || notLog != nil || err != nil {
			continue
		}
		path := d.fs.PathJoin(d.store, name)
		if closed {
			err = checkClosedLog(d, path, uint32(n))
			continue
		}
		err = checkChunks(d, path, func(bad int64, c chunk) bool {
			return c.log == uint32(n) && c.synced > uint64(bad)
		})
	}
	return true, err
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
			if !ok || c.log != n {
				return fmt.Errorf("%w: %s at offset %d; %s", ErrCorrupt, name, start+int64(i), wayOut)
			}
			i = c.end
		}
		if size < blockBytes {
			return fmt.Errorf("%w: %s ends at offset %d before its end; %s", ErrCorrupt, name, start+int64(i), wayOut)
		}
	}
}

// isTrailer reports whether b begins with the trailer of the log numbered n: an
// empty chunk of kind 5, without a CRC, which has the number of the next log.
func isTrailer(b []byte, n uint32) bool {
	return len(b) >= 11 && bytes.Equal(b[:7], []byte{6: 5}) && binary.LittleEndian.Uint32(b[7:]) == n+1
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

// checkChunks reads a file up to its first invalid chunk. If a later chunk
// proves that what is invalid was once whole, the file is damaged.
func checkChunks(d *directory, name string, proves func(bad int64, c chunk) bool) error {
	f, err := openFile(d, name)
	if err != nil {
		return err
	}
	defer f.Close()
	block := make([]byte, blockBytes)
	bad := int64(-1) // offset of the first invalid chunk
	for start := int64(0); ; start += blockBytes {
		n, err := io.ReadFull(f, block)
		if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
			return fmt.Errorf("%w: %s: %w", ErrDirectory, name, err)
		}
		for i := 0; i < n; {
			c, ok := parseChunk(block[:n], i)
			switch {
			case ok && bad >= 0 && proves(bad, c):
				return fmt.Errorf("%w: %s at offset %d; %s", ErrCorrupt, name, bad, wayOut)
			case ok:
				i = c.end
			case bad < 0 && !padding(block[i:n]):
				bad = start + int64(i)
				i++
			case bad < 0:
				i = n
			default:
				i++
			}
		}
		if n < blockBytes {
			return nil
		}
	}
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

// openError says what an error of opening the engine means to an operator.
func openError(d *directory, err error) error {
	var errno syscall.Errno
	switch {
	case errors.Is(err, syscall.ENOSPC):
		return fmt.Errorf("%w: cannot open %s: %w; make room", ErrDiskFull, d.store, err)
	case errors.As(err, &errno) && errno != syscall.ENOENT:
		return fmt.Errorf("%w: cannot open %s: %w", ErrDirectory, d.store, err)
	}
	// What is left is that the files do not fit together.
	return fmt.Errorf("%w: cannot open %s: %w; %s", ErrCorrupt, d.store, err, wayOut)
}
