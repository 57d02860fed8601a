package local

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
)

// engineOptions returns the options of the engine for a load of small records that are
// overwritten often, read by key, and seldom read in order. diskTotal is the size of the
// disk in bytes, 0 if unknown. tables is the number of tables that may be open.
func engineOptions(d *directory, diskTotal int64, tables int, report reporter, fatal func(error)) *pebble.Options {
	o := &pebble.Options{
		FS: d.fs,
		// Explicit, so that a new release of the engine does not upgrade the files.
		FormatMajorVersion: pebble.FormatValueSeparation,
		// Most overwritten values never leave memory. Larger tables would slow down a
		// restart after a crash.
		MemTableSize: memTableSize(diskTotal),
		// A full table is written while the next one fills, so that publishes do not wait
		// for it. More tables would not fit into the disk reserve.
		MemTableStopWritesThreshold: 3,
		// Compact early, because a read looks into every sublevel, and never stop
		// publishers because compactions lag behind.
		L0CompactionThreshold: 2,
		L0StopWritesThreshold: 1000,
		// The second compaction is for bursts. A small machine needs its cores.
		CompactionConcurrencyRange: func() (int, int) { return 1, 2 },
		// Enough for the blocks of busy topics. The system's page cache has the rest.
		// The memory is allocated as it is used.
		CacheSize:    32 << 20,
		MaxOpenFiles: tables + 10, // the engine subtracts 10 for other files
		// The MANIFEST is read at every start.
		MaxManifestFileSize: 4 << 20,
		Logger:              logger{report: report, fatal: fatal},
	}
	// One shard: few files, few goroutines.
	o.Experimental.FileCacheShards = 1
	// Reads of idle topics must not cause writes.
	o.Experimental.ReadSamplingMultiplier = -1
	for i := range o.Levels {
		// 10 bits a key: one in a hundred reads of a topic without a message goes to
		// the disk.
		o.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
	}
	// Fast compression on all levels: records are small and read soon.
	o.ApplyCompressionSettings(func() pebble.DBCompressionSettings { return pebble.DBCompressionFastest })
	// A damaged block fails the read or the compaction that finds it. The process goes
	// on serving everything else.
	o.EventListener = &pebble.EventListener{
		BackgroundError: func(err error) { report("store background task failed", err) },
		DataCorruption: func(i pebble.DataCorruptionInfo) {
			report("store file corrupt", fmt.Errorf("%w: %s: %w", ErrCorrupt, i.Path, i.Details))
		},
	}
	return o
}

// memTableSize returns how many bytes the engine keeps in memory before it writes them to
// a table. The logs take about five times as much, and on a small disk they must leave
// room for messages. When messages are refused for lack of room, up to three tables and a
// new log must still be written. They must fit into the lower part of the reserve, which
// is an eighth of such a disk.
func memTableSize(diskTotal int64) uint64 {
	const most, least = 8 << 20, 256 << 10
	if diskTotal == 0 {
		return most
	}
	return uint64(max(least, min(most, diskTotal/128)))
}

// reporter is [Events.Error], and is never nil.
type reporter func(event string, err error)

// logger reports the failures that the engine cannot return as errors. If replayed is not
// nil, logger also calls it with the number of each log that the engine reads when it is
// opened, because only the engine's log lines name them.
type logger struct {
	report   reporter
	fatal    func(error)
	replayed func(log uint64)
}

func (l logger) Infof(format string, args ...any) {
	if l.replayed == nil || !strings.Contains(format, "stopped reading at offset") {
		return
	}
	for _, arg := range args {
		if text, ok := arg.(string); ok { // "000012: {...}"
			number, _, _ := strings.Cut(text, ":")
			if n, err := strconv.ParseUint(number, 10, 64); err == nil {
				l.replayed(n)
			}
			return
		}
	}
}

func (l logger) Errorf(format string, args ...any) {
	l.report("store engine error", fmt.Errorf(format, args...))
}

// Fatalf does not return: the engine relies on it.
func (l logger) Fatalf(format string, args ...any) { l.fatal(fmt.Errorf(format, args...)) }
