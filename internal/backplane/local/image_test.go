package local

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pubsub"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// image is a copy of a data directory, to be damaged by a test.
type image struct {
	files map[string]string // contents, by path under the directory
	known *history          // of the store
}

// buildImage makes a store with a table, a table that is partly overwritten, and a log.
// If closed is false, the files are in the state that a SIGKILL leaves.
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
	img.checkIntact(t, open(t, Options{Dir: img.write(t, "", "")}), "without damage")
	return img
}

// buildYoung makes a store that has written no table yet: all messages, of one publisher,
// are in its logs. The files are in the state that a SIGKILL leaves.
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

// relative returns the contents of the files under dir, by path under dir.
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

// checkIntact checks that b, a store opened from the damaged image, has lost nothing, and
// closes it. where describes the damage.
func (img image) checkIntact(t *testing.T, b *Backplane, where string) {
	t.Helper()
	img.known.clone().check(t, b)
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	if t.Failed() {
		t.Fatal(where)
	}
}

// tryOpen opens the store with the text of one file replaced and returns the error of Open.
// An error must name the directory, and Open must then have changed no file. Otherwise the
// store must have lost nothing. where describes the damage.
func (img image) tryOpen(t *testing.T, name, text, where string) error {
	t.Helper()
	dir := img.write(t, name, text)
	before := snapshot(t, dir)
	b, err := Open(Options{Dir: dir})
	if err == nil {
		img.checkIntact(t, b, where)
		return nil
	}
	if !strings.Contains(err.Error(), dir) {
		t.Errorf("%s: %v", where, err)
	}
	if after := snapshot(t, dir); !maps.Equal(before, after) {
		t.Errorf("%s: Open failed with %v but changed files: %v, before %v", where, err, names(after), names(before))
	}
	return err
}

// write writes the image to a new directory, with the text of one file replaced.
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

// mem writes the image to a file system in memory, with the text of one file replaced.
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

// lastRecord returns the offset of the last record of a log.
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

// damages are ways in which a file is damaged at an offset.
var damages = map[string]func(text string, at int) string{
	"a byte flipped": func(text string, at int) string { return text[:at] + string(text[at]^0x55) + text[at+1:] },
	"4 KiB of zeros": func(text string, at int) string {
		n := min(4096, len(text)-at)
		return text[:at] + strings.Repeat("\x00", n) + text[at+n:]
	},
	"4 KiB of the beginning": func(text string, at int) string { // like a block written to the wrong place
		n := min(4096, len(text)-at, at)
		return text[:at] + text[:n] + text[at+n:]
	},
	"cut short": func(text string, at int) string { return text[:at] },
	"a block lost": func(text string, at int) string {
		at -= at % blockBytes
		return text[:at] + text[min(len(text), at+blockBytes):]
	},
}
