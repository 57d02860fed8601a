package local

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pubsub"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// image is a data directory that was built up for a test, file by file, and what
// is known to be in it.
type image struct {
	files map[string]string // by path under the directory
	known *history
}

// buildImage makes a store with a table, a table that is overwritten in part, and
// a log. Without closed it is as a SIGKILL leaves it.
func buildImage(t *testing.T, closed bool) image {
	t.Helper()
	dir := t.TempDir()
	b := open(t, Options{Dir: dir})
	h := newHistory()
	fill := func(from, n int) {
		for i := range n {
			topic := pubsub.Topic(fmt.Sprint("topic/", from+i))
			data := fmt.Sprint(from+i, strings.Repeat("y", 300))
			v, err := b.Put(t.Context(), message(topic, data))()
			if err != nil {
				t.Fatal(err)
			}
			h.saw(t, topic, v, data)
		}
	}
	for i := range 3 {
		fill(100*i, 150)
		if err := b.db.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	fill(50, 400)
	img := image{known: h}
	if !closed {
		img.files = relative(t, dir)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if closed {
		img.files = relative(t, dir)
	}
	b = open(t, Options{Dir: img.write(t, "", "")}) // whole, it opens
	defer b.Close()
	h.clone().check(t, b)
	return img
}

// relative returns the files under dir.
func relative(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	for path, text := range snapshot(t, dir) {
		name, err := filepath.Rel(dir, path)
		if err != nil {
			t.Fatal(err)
		}
		files[name] = text
	}
	return files
}

// write writes the image to a new directory, with one file replaced.
func (img image) write(t *testing.T, name, text string) string {
	t.Helper()
	dir := t.TempDir()
	for n, s := range img.files {
		if n == name {
			s = text
		}
		path := filepath.Join(dir, n)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(s), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// mem writes the image to a file system in memory, with one file replaced.
func (img image) mem(t *testing.T, name, text string) *vfs.MemFS {
	t.Helper()
	fs := vfs.NewMem()
	for n, s := range img.files {
		if n == name {
			s = text
		}
		path := "/data/" + n
		if err := fs.MkdirAll(fs.PathDir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		f, err := fs.Create(path, vfs.WriteCategoryUnspecified)
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.Write([]byte(s))
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	return fs
}

// TestFlippedBytes flips a byte of a file, at many places in every file: the
// store opens and has lost nothing, or it does not open, says why, and changes
// nothing.
func TestFlippedBytes(t *testing.T) {
	t.Parallel()
	const flips = 12 // in each file
	seed := newSeed(t)
	rng := rand.New(rand.NewPCG(seed, 0))
	for _, closed := range []bool{true, false} {
		img := buildImage(t, closed)
		refused := map[string]int{}
		for name, text := range img.files {
			kind := strings.Trim(filepath.Ext(name), ".0123456789") + strings.Split(filepath.Base(name), "-")[0]
			for range flips {
				at := rng.IntN(max(1, len(text)))
				if len(text) == 0 || !closed && strings.HasSuffix(name, ".log") && at >= lastRecord(text) {
					continue // not to be told from what a power cut leaves
				}
				harmed := []byte(text)
				harmed[at] ^= byte(1 + rng.IntN(255))
				dir := img.write(t, name, string(harmed))
				before := snapshot(t, dir)
				b, err := Open(Options{Dir: dir})
				if err != nil {
					refused[kind]++
					if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrNewerFormat) || !strings.Contains(err.Error(), dir) {
						t.Errorf("seed %d, %s at %d: %v", seed, name, at, err)
					}
					if after := snapshot(t, dir); !equal(before, after) {
						t.Errorf("seed %d, %s at %d: Open has failed with %v and changed files: %v, before %v", seed, name, at, err, names(after), names(before))
					}
					continue
				}
				img.known.clone().check(t, b)
				if err := b.Close(); err != nil {
					t.Error(err)
				}
				if t.Failed() {
					t.Fatalf("seed %d, closed %v, %s of %d bytes at %d", seed, closed, name, len(text), at)
				}
			}
		}
		t.Logf("closed %v: refused %v", closed, refused)
	}
}

// lastRecord returns where the last record of a log begins.
func lastRecord(text string) (at int) {
	for i := 0; i < len(text); {
		start := i / blockBytes * blockBytes
		c, ok := parseChunk([]byte(text[start:min(len(text), start+blockBytes)]), i-start)
		if !ok {
			return at
		}
		if c.kind.starts {
			at = i
		}
		if i = start + c.end; start+blockBytes-i < 19 {
			i = start + blockBytes
		}
	}
	return at
}

// TestManifestEnd harms every byte of the last edit of a MANIFEST, which cannot
// be told from an edit that a power cut has torn: that must lose nothing.
func TestManifestEnd(t *testing.T) {
	t.Parallel()
	for _, closed := range []bool{true, false} {
		img := buildImage(t, closed)
		for name, text := range img.files {
			if !strings.HasPrefix(filepath.Base(name), "MANIFEST-") {
				continue
			}
			refused := 0
			for at := lastRecord(text); at < len(text); at++ {
				harmed := []byte(text)
				harmed[at] ^= 0x10
				dir := img.write(t, name, string(harmed))
				b, err := Open(Options{Dir: dir})
				if err != nil {
					refused++
					if !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), dir) {
						t.Errorf("%s at %d: %v", name, at, err)
					}
					continue
				}
				img.known.clone().check(t, b)
				if err := b.Close(); err != nil {
					t.Error(err)
				}
				if t.Failed() {
					t.Fatalf("closed %v, %s of %d bytes at %d", closed, name, len(text), at)
				}
			}
			t.Logf("closed %v: refused %d of %d", closed, refused, len(text)-lastRecord(text))
		}
	}
}

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
		t.Fatalf("%s of %d bytes has no record at its end", name, len(text))
	}
	torn := img.known.clone()
	torn.newest = map[pubsub.Topic]pubsub.Version{}
	for topic, v := range img.known.newest {
		if v.Seq < img.known.taken {
			torn.newest[topic] = v
		}
	}
	if len(torn.newest) != len(img.known.newest)-1 {
		t.Fatal("the last record is not the last Put")
	}
	for _, cut := range []int{1, 10, c.end - end%blockBytes - 1} {
		dir := img.write(t, name, text[:end+cut])
		b := open(t, Options{Dir: dir})
		torn.clone().check(t, b)
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestMissingFiles removes one file at a time. A missing log is not noticed: the
// engine does not say in its other files which logs there were.
func TestMissingFiles(t *testing.T) {
	img := buildImage(t, true)
	for name := range img.files {
		if strings.HasSuffix(name, ".log") || strings.Contains(name, "OPTIONS-") {
			continue // nothing is lost without the latter
		}
		dir := img.write(t, "", "")
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
		b, err := Open(Options{Dir: dir})
		if err == nil {
			img.known.clone().check(t, b)
			if err := b.Close(); err != nil {
				t.Error(err)
			}
			if t.Failed() {
				t.Fatalf("%s is missing", name)
			}
			continue
		}
		if !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), dir) {
			t.Errorf("%s is missing: %v", name, err)
		}
	}
}

// buildYoung makes a store as a SIGKILL leaves it, with all messages, of one publisher,
// in its only log.
func buildYoung(t *testing.T, messages, size int) image {
	t.Helper()
	dir := t.TempDir()
	b := open(t, Options{Dir: dir})
	defer b.Close()
	img := image{known: newHistory()}
	for i := range messages {
		topic := pubsub.Topic(fmt.Sprint("topic/", i))
		data := fmt.Sprint(i, strings.Repeat("z", size))
		v, err := b.Put(t.Context(), message(topic, data))()
		if err != nil {
			t.Fatal(err)
		}
		img.known.saw(t, topic, v, data)
	}
	img.files = relative(t, dir)
	return img
}

// harms are ways in which a file is damaged at an offset.
var harms = map[string]func(text string, at int) string{
	"a byte flipped": func(text string, at int) string { return text[:at] + string(text[at]^0x55) + text[at+1:] },
	"4 KiB of zeros": func(text string, at int) string {
		n := min(4096, len(text)-at)
		return text[:at] + strings.Repeat("\x00", n) + text[at+n:]
	},
	"4 KiB of the beginning": func(text string, at int) string { // as a block that was written to the wrong place
		n := min(4096, len(text)-at, at)
		return text[:at] + text[:n] + text[at+n:]
	},
	"cut short": func(text string, at int) string { return text[:at] },
	"a block lost": func(text string, at int) string {
		at -= at % blockBytes
		return text[:at] + text[min(len(text), at+blockBytes):]
	},
}

// TestDamagedLog damages the only log of a young store, and the newest log of an older
// store, in each way at many places. Only damage within the last write may pass without
// an error, and lose that write.
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
		before := img.known.clone() // the last Put
		for topic, v := range before.newest {
			if v.Seq == before.taken {
				delete(before.newest, topic)
			}
		}
		for how, harm := range harms {
			for i := range places {
				at := i * len(text) / places
				if i == places-1 {
					at = last + 1
				}
				harmed := harm(text, at)
				if harmed == text {
					continue
				}
				b, err := Open(Options{Dir: "/data", FS: img.mem(t, log, harmed)})
				if err != nil {
					if !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), filepath.Join("/data", log)) || !strings.Contains(err.Error(), "offset") {
						t.Errorf("%s: %s at %d: %v", name, how, at, err)
					}
					if at > last && len(harmed) <= len(text) && how == "cut short" {
						t.Errorf("%s: the last write is torn: %v", name, err)
					}
					continue
				}
				if at < last && how != "4 KiB of zeros" && how != "4 KiB of the beginning" || at+4096 < last {
					t.Errorf("%s: %s at %d of %d: opened", name, how, at, len(text))
				}
				before.clone().check(t, b)
				if err := b.Close(); err != nil {
					t.Error(err)
				}
			}
		}
	}
}

// TestPlantedChunks has a killed store whose log goes on with the content of messages of
// an older log, because the engine uses files again. Publishers choose that content. Even
// if it looks like chunks of this log that prove damage, the store opens.
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
			t.Fatal("what is planted is no chunk")
		}
		older := strings.Repeat("\xff", 100) + string(message)
		last := lastRecord(text)
		c, _ := parseChunk([]byte(text[last/blockBytes*blockBytes:]), last%blockBytes)
		end := last/blockBytes*blockBytes + c.end
		b := open(t, Options{Dir: "/data", FS: img.mem(t, name, text[:end]+older)})
		img.known.clone().check(t, b)
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestLogNumbersGrow checks logs whose names do not sort as their numbers do.
func TestLogNumbersGrow(t *testing.T) {
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

// TestDamagedOlderLog damages the older logs of a killed store. They were complete, so
// nothing of them may be lost.
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
			t.Fatalf("there are the logs %q", logs)
		}
		for _, log := range logs[:len(logs)-1] {
			text := img.files[log]
			for how, harm := range harms {
				for i := range places {
					at := i * len(text) / places
					if i == places-1 {
						at = lastRecord(text) + 1
					}
					harmed := harm(text, at)
					if harmed == text {
						continue
					}
					b, err := Open(Options{Dir: "/data", FS: img.mem(t, log, harmed)})
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

// TestDamagedFiles damages every other file of a store, killed or closed, in each way.
// The store opens and has lost nothing, or its error names the damaged file at once.
func TestDamagedFiles(t *testing.T) {
	t.Parallel()
	for _, closed := range []bool{false, true} {
		img := buildImage(t, closed)
		for name, text := range img.files {
			if !strings.HasPrefix(name, "store/") {
				continue
			}
			for how, harm := range harms {
				for i := range 4 {
					if strings.HasSuffix(name, ".log") && !closed {
						break // see TestDamagedLog
					}
					at := i * len(text) / 4
					if at >= len(text) {
						break
					}
					harmed := harm(text, at)
					if harmed == text {
						continue
					}
					checkDamaged(t, img, img.mem(t, name, harmed), name, fmt.Sprintf("%s at %d of %d", how, at, len(text)))
				}
			}
			fs := img.mem(t, "", "")
			if err := fs.Remove("/data/" + name); err != nil {
				t.Fatal(err)
			}
			checkDamaged(t, img, fs, name, "missing")
		}
	}
}

// checkDamaged opens the store in fs, whose file name is damaged.
func checkDamaged(t *testing.T, img image, fs vfs.FS, name, how string) {
	t.Helper()
	b, err := Open(Options{Dir: "/data", FS: fs})
	if err != nil {
		path := "/data/" + name
		if base := filepath.Base(name); how == "missing" && strings.HasPrefix(base, "marker.") {
			path, _, _ = strings.Cut(base, ".0")
		}
		if !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), path) || strings.Contains(err.Error(), "carrier") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s, %s: %v", name, how, err)
		}
		return
	}
	img.known.clone().check(t, b)
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	if t.Failed() {
		t.Fatalf("%s, %s", name, how)
	}
}
