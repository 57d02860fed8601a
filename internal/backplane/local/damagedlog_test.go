package local

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pubsub"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// TestTornLog cuts the log of a killed process short within its last record, as a
// power cut may: the store opens without that record.
func TestTornLog(t *testing.T) {
	img := buildImage(t, false)
	var name, text string
	for n, s := range img.files {
		if strings.HasSuffix(n, ".log") && len(s) > len(text) {
			name, text = n, s
		}
	}
	end := lastRecord(text)
	c, ok := parseChunk([]byte(text[end/blockBytes*blockBytes:]), end%blockBytes)
	if !ok {
		t.Fatalf("%s, of %d bytes, has no record at its end", name, len(text))
	}
	torn := img.known.clone()
	torn.newest = map[pubsub.Topic]pubsub.Version{}
	for topic, v := range img.known.newest {
		if v.Seq < img.known.taken {
			torn.newest[topic] = v
		}
	}
	if len(torn.newest) != len(img.known.newest)-1 {
		t.Fatal("the last record is not that of the last Put")
	}
	for _, cut := range []int{1, 10, c.end - end%blockBytes - 1} {
		b := open(t, Options{Dir: img.write(t, name, text[:end+cut])})
		image{known: torn}.checkIntact(t, b, name)
	}
}

// TestDamagedLog damages the newest log of a store, which is the only log of a young
// store, in each way at many places. Only damage within the last write may pass without an
// error, and lose only that write.
func TestDamagedLog(t *testing.T) {
	t.Parallel()
	const places = 10
	for name, img := range map[string]image{
		"small messages": buildYoung(t, 350, 300),
		"large messages": buildYoung(t, 40, 9<<10),
		"older":          buildImage(t, false),
	} {
		var log string
		for n := range img.files {
			if strings.HasSuffix(n, ".log") && n > log {
				log = n
			}
		}
		text := img.files[log]
		last := lastRecord(text)
		if last < len(text)/2 {
			t.Fatalf("%s: the last record of %s, of %d bytes, is at %d", name, log, len(text), last)
		}
		beforeLast := img.known.clone() // the history without the last Put
		for topic, v := range beforeLast.newest {
			if v.Seq == beforeLast.taken {
				delete(beforeLast.newest, topic)
			}
		}
		for how, damage := range damages {
			for i := range places {
				at := i * len(text) / places
				if i == places-1 {
					at = last + 1
				}
				damaged := damage(text, at)
				if damaged == text {
					continue
				}
				b, err := Open(Options{Dir: "/data", FS: img.mem(t, log, damaged)})
				if err != nil {
					if !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), filepath.Join("/data", log)) || !strings.Contains(err.Error(), "offset") {
						t.Errorf("%s: %s at %d: %v", name, how, at, err)
					}
					if at > last && len(damaged) <= len(text) && how == "cut short" {
						t.Errorf("%s: the last write is torn: %v", name, err)
					}
					continue
				}
				if at < last && how != "4 KiB of zeros" && how != "4 KiB of the beginning" || at+4096 < last {
					t.Errorf("%s: %s at %d of %d: opened", name, how, at, len(text))
				}
				beforeLast.clone().check(t, b)
				if err := b.Close(); err != nil {
					t.Error(err)
				}
			}
		}
	}
}

// TestDamagedOlderLog damages the older logs of a killed store. They were complete, so no
// message in them may be lost.
func TestDamagedOlderLog(t *testing.T) {
	t.Parallel()
	const places = 5
	for _, img := range []image{buildYoung(t, 120, 9<<10), buildYoung(t, 2500, 300)} {
		var logs []string
		for n := range img.files {
			if strings.HasSuffix(n, ".log") {
				logs = append(logs, n)
			}
		}
		slices.Sort(logs)
		if len(logs) < 2 {
			t.Fatalf("there are only the logs %q", logs)
		}
		for _, log := range logs[:len(logs)-1] {
			text := img.files[log]
			for how, damage := range damages {
				for i := range places {
					at := i * len(text) / places
					if i == places-1 {
						at = lastRecord(text) + 1
					}
					damaged := damage(text, at)
					if damaged == text {
						continue
					}
					b, err := Open(Options{Dir: "/data", FS: img.mem(t, log, damaged)})
					if err == nil {
						t.Errorf("%s: %s at %d of %d: opened", log, how, at, len(text))
						b.Close()
						continue
					}
					if !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "/data/"+log) || !strings.Contains(err.Error(), "offset") {
						t.Errorf("%s: %s at %d of %d: %v", log, how, at, len(text), err)
					}
				}
			}
			fs := img.mem(t, "", "")
			if err := fs.Remove("/data/" + log); err != nil {
				t.Fatal(err)
			}
			b, err := Open(Options{Dir: "/data", FS: fs})
			if err == nil {
				t.Errorf("%s is missing: opened", log)
				b.Close()
			} else if !errors.Is(err, ErrCorrupt) {
				t.Errorf("%s is missing: %v", log, err)
			}
		}
	}
}

// TestPlantedChunks opens a killed store whose log is followed by messages of an older log,
// because the engine reuses files. Publishers choose their content. Even if it looks like
// chunks of the newer log that prove damage, the store opens.
func TestPlantedChunks(t *testing.T) {
	img := buildYoung(t, 50, 300)
	for name, text := range img.files {
		if !strings.HasSuffix(name, ".log") {
			continue
		}
		var message []byte
		for log := range uint32(numberOf(name)) + 100 {
			body := binary.LittleEndian.AppendUint32([]byte{9}, log)
			body = binary.LittleEndian.AppendUint64(body, 1<<60)
			message = binary.LittleEndian.AppendUint32(message, maskedCRC(body))
			message = append(append(message, 0, 0), body...)
		}
		if _, ok := parseChunk(message, 0); !ok {
			t.Fatal("the planted message is not a chunk")
		}
		older := strings.Repeat("\xff", 100) + string(message)
		last := lastRecord(text)
		c, _ := parseChunk([]byte(text[last/blockBytes*blockBytes:]), last%blockBytes)
		end := last/blockBytes*blockBytes + c.end
		img.checkIntact(t, open(t, Options{Dir: "/data", FS: img.mem(t, name, text[:end]+older)}), name)
	}
}

// TestLogOrder checks that logs are sorted by number, not by name.
func TestLogOrder(t *testing.T) {
	dir := t.TempDir()
	names := []string{"1000001.log", "999998.log"}
	for _, name := range names {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	logs, err := checkLogs(&directory{path: dir, fs: vfs.Default, store: dir}, names, syncMark{})
	if err != nil || len(logs) != 2 || logs[0].number != 999_998 || logs[1].number != 1_000_001 {
		t.Errorf("checkLogs = %v, %v", logs, err)
	}
}
