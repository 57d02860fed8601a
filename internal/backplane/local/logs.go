package local

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/cockroachdb/pebble/v2/batchrepr"
)

// The engine treats the first invalid chunk of a MANIFEST, and often of a log, as the end
// of the writes before a crash, and ignores the rest. That is right for a torn end, but
// after damage in the middle the engine would delete the tables that it no longer knows.
// So the files are checked before the engine opens them.
//
// Both consist of blocks of 32 KiB. A block consists of chunks, which never cross its
// end:
//
//	CRC 4 · length 2 · kind 1 [· number of the log 4 [· bytes synced before 8]] · payload
//
// in little-endian. The CRC covers everything after the length.
const blockBytes = 32 << 10

// chunkKind is a kind of chunk.
type chunkKind struct {
	header int  // length of the header in bytes
	starts bool // a record begins here
	ends   bool // a record ends here
}

// chunkKinds are the kinds 1 to 12: full, first, middle and last, each with three headers.
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
	synced  uint64 // bytes of the log that were synced before the chunk was written
	payload []byte
}

// parseChunk parses the chunk at offset i of a block. ok reports whether it is valid.
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

// logFileInfo describes a log.
type logFileInfo struct {
	number uint64
	size   int64 // of its records
	torn   error // the error to return if the log should be complete and is not, or nil
	// first is the sequence number of its first change, and next the one after its last.
	// Both are 0 if it has no change.
	first, next uint64
}

// logList are the logs of a database, the oldest first.
type logList []logFileInfo

// checkLogs looks for damage in the logs among names.
func checkLogs(d *directory, names []string, synced syncMark) (logs logList, err error) {
	closed := d.wasClosed()
	var newest uint64
	names = slices.Clone(names)
	slices.SortFunc(names, func(a, b string) int { // 1000000.log comes after 999999.log
		return cmp.Or(cmp.Compare(len(a), len(b)), strings.Compare(a, b))
	})
	for _, name := range names {
		digits, ok := strings.CutSuffix(name, ".log")
		n, notLog := strconv.ParseUint(digits, 10, 64)
		if !ok || notLog != nil {
			continue
		}
		newest = n
		var size int64
		if n == synced.number {
			size = synced.size
		}
		log, err := checkChunks(d, d.fs.PathJoin(d.store, name), size, func(bad int64, c chunk) bool {
			return c.log == uint32(n) && c.synced > uint64(bad)
		})
		switch {
		case err != nil:
			return nil, err
		case closed && log.torn != nil:
			return nil, log.torn
		}
		logs = append(logs, log)
	}
	if newest < synced.number {
		// The engine deletes an older log only once a newer one exists.
		return nil, logs.missing(d, synced.number)
	}
	return logs, nil
}

func (logs logList) missing(d *directory, number uint64) error {
	return fmt.Errorf("%w: %s is missing; %s", ErrCorrupt, d.fs.PathJoin(d.store, fmt.Sprintf("%06d.log", number)), remedy)
}

// torn returns the error of the oldest torn log, or nil. It ignores the newest log, which
// a crash may tear. The error does not matter if the engine no longer needs that log.
func (logs logList) torn() error {
	for i := range len(logs) - 1 {
		if logs[i].torn != nil {
			return logs[i].torn
		}
	}
	return nil
}

// only returns the logs with those numbers.
func (logs logList) only(numbers []uint64) logList {
	return slices.DeleteFunc(slices.Clone(logs), func(l logFileInfo) bool { return !slices.Contains(numbers, l.number) })
}

// size returns the number of bytes in all records.
func (logs logList) size() (n int64) {
	for _, l := range logs {
		n += l.size
	}
	return n
}

// checkNeeded looks for damage in the logs that the engine needs: each but the newest
// must be complete, and each must continue where the previous one ends.
func (logs logList) checkNeeded(d *directory) error {
	if err := logs.torn(); err != nil {
		return err
	}
	var next uint64
	for _, l := range logs {
		if next != 0 && l.first != 0 && l.first != next {
			return fmt.Errorf("%w: a log before %06d.log is missing in %s; %s", ErrCorrupt, l.number, d.store, remedy)
		}
		if l.next != 0 {
			next = l.next
		}
	}
	return nil
}

// checkChunks reads a file and returns an error if it is damaged: if its first invalid
// chunk lies within the first synced bytes, if a later chunk proves that it was once
// valid, or if the valid chunks before it are not consecutive.
func checkChunks(d *directory, name string, synced int64, proves func(bad int64, c chunk) bool) (log logFileInfo, err error) {
	f, err := openFile(d, name)
	if err != nil {
		return log, err
	}
	defer f.Close()
	damage := func(at int64) error {
		return fmt.Errorf("%w: %s at offset %d; %s", ErrCorrupt, name, at, remedy)
	}
	number := uint32(numberOf(name))
	order := recordOrder{log: strings.HasSuffix(name, ".log")}
	block := make([]byte, blockBytes)
	bad := int64(-1) // offset of the first invalid chunk
	for start := int64(0); ; start += blockBytes {
		n, err := io.ReadFull(f, block)
		if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
			return log, fmt.Errorf("%w: %s: %w", ErrDirectory, name, err)
		}
		for i := 0; i < n; {
			c, ok := parseChunk(block[:n], i)
			own := ok && (c.log == number || c.kind.header < 11) // otherwise it is a remnant of an older log
			at := start + int64(i)
			switch {
			case own && c.synced > uint64(at):
				return log, damage(at) // earlier chunks are lost
			case own && bad >= 0 && proves(bad, c):
				return log, damage(bad)
			case own && bad < 0 && !order.follows(c):
				return log, damage(at)
			case own:
				i = c.end
			case bad < 0 && padding(block[i:n]):
				i = n
			case bad < 0 && isTrailer(block[i:n], number) && at+trailerBytes >= synced:
				return order.info(numberOf(name), at, nil), nil // the rest is a remnant of an older log
			case at < synced && bad < 0:
				return log, damage(at)
			default:
				if bad < 0 {
					bad = at
				}
				if ok {
					i = c.end
				} else if order.log {
					// Not byte by byte: the bytes may be the data of a message, also from
					// an older log in the same file, and a publisher can make data look
					// like a chunk. It cannot place data at the beginning of a block.
					i = n
				} else {
					i++
				}
			}
		}
		if n < blockBytes {
			end := start + int64(n)
			if end < synced {
				return log, fmt.Errorf("%w: %s ends at offset %d, but had %d bytes on disk; %s", ErrCorrupt, name, end, synced, remedy)
			}
			if bad >= 0 {
				end = bad
			}
			return order.info(numberOf(name), end, damage(end)), nil
		}
	}
}

// recordOrder checks that the chunks of a record are consecutive, and that the records of
// a log are consecutive by the sequence numbers of their changes.
type recordOrder struct {
	log    bool   // the file is a log
	within bool   // a record has begun and not ended
	record []byte // the part read so far; only for logs
	first  uint64 // the sequence number of the first change, or 0
	next   uint64 // that of the next change, or 0 before the first record
}

// info returns the description of a log with records of size bytes.
func (o *recordOrder) info(number uint64, size int64, torn error) logFileInfo {
	return logFileInfo{number: number, size: size, torn: torn, first: o.first, next: o.next}
}

// follows reports whether c may be the next chunk.
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

// batch reports whether b is a complete batch and the next one in order.
func (o *recordOrder) batch(b []byte) bool {
	h, ok := batchrepr.ReadHeader(b)
	if !ok || o.next != 0 && uint64(h.SeqNum) != o.next {
		return false
	}
	if o.first == 0 {
		o.first = uint64(h.SeqNum)
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

// trailerBytes is the length of the trailer at the end of a log.
const trailerBytes = 11

// isTrailer reports whether b begins with the trailer of the log numbered n: an empty
// chunk of kind 5 without a CRC and with the number of the next log.
func isTrailer(b []byte, n uint32) bool {
	return len(b) >= trailerBytes && bytes.Equal(b[:7], []byte{6: 5}) && binary.LittleEndian.Uint32(b[7:]) == n+1
}

// padding reports whether b, the rest of a block, is all zeros and too short for a chunk.
func padding(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return len(b) < 19
}
