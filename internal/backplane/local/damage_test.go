package local

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// TestFlippedBytes flips a byte of a file, at many places in every file. The store opens
// and has lost nothing, or Open returns an error that names the directory and has changed
// no file.
func TestFlippedBytes(t *testing.T) {
	t.Parallel()
	const flips = 12 // in each file
	rng := newRand(t)
	for _, closed := range []bool{true, false} {
		img := buildImage(t, closed)
		refused := map[string]int{}
		for name, text := range img.files {
			kind := strings.Trim(filepath.Ext(name), ".0123456789") + strings.Split(filepath.Base(name), "-")[0]
			for range flips {
				at := rng.IntN(max(1, len(text)))
				if len(text) == 0 || !closed && strings.HasSuffix(name, ".log") && at >= lastRecord(text) {
					continue // a power cut leaves the same
				}
				damaged := []byte(text)
				damaged[at] ^= byte(1 + rng.IntN(255))
				where := fmt.Sprintf("closed %v, %s of %d bytes at %d", closed, name, len(text), at)
				if err := img.tryOpen(t, name, string(damaged), where); err != nil {
					refused[kind]++
					if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrNewerFormat) {
						t.Errorf("%s: %v", where, err)
					}
				}
			}
		}
		t.Logf("closed %v: refused %v", closed, refused)
	}
}

// TestManifestEnd damages every byte of the last edit of a MANIFEST. The result cannot be
// distinguished from an edit torn by a power cut, so it must lose nothing.
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
				damaged := []byte(text)
				damaged[at] ^= 0x10
				where := fmt.Sprintf("closed %v, %s of %d bytes at %d", closed, name, len(text), at)
				if err := img.tryOpen(t, name, string(damaged), where); err != nil {
					refused++
					if !errors.Is(err, ErrCorrupt) {
						t.Errorf("%s: %v", where, err)
					}
				}
			}
			t.Logf("closed %v: refused %d of %d", closed, refused, len(text)-lastRecord(text))
		}
	}
}

// TestMissingFiles removes each file of a store, killed or closed. The store opens and has
// lost nothing, or Open's error names the missing file.
func TestMissingFiles(t *testing.T) {
	t.Parallel()
	for _, closed := range []bool{false, true} {
		img := buildImage(t, closed)
		for name := range img.files {
			fs := img.mem(t, "", "")
			if err := fs.Remove("/data/" + name); err != nil {
				t.Fatal(err)
			}
			checkDamaged(t, img, fs, name, "missing")
		}
	}
}

// TestDamagedFiles damages every other file of a store, killed or closed, in each way.
// The store opens and has lost nothing, or Open's error names the damaged file.
func TestDamagedFiles(t *testing.T) {
	t.Parallel()
	for _, closed := range []bool{false, true} {
		img := buildImage(t, closed)
		for name, text := range img.files {
			if !strings.HasPrefix(name, "store/") || strings.HasSuffix(name, ".log") && !closed {
				continue // TestDamagedLog has the logs of a killed store
			}
			for how, damage := range damages {
				for i := range 4 {
					at := i * len(text) / 4
					if at >= len(text) {
						break
					}
					damaged := damage(text, at)
					if damaged == text {
						continue
					}
					checkDamaged(t, img, img.mem(t, name, damaged), name, fmt.Sprintf("%s at %d of %d", how, at, len(text)))
				}
			}
		}
	}
}

// checkDamaged opens the store in fs, in which the file of that name is damaged.
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
	img.checkIntact(t, b, name+", "+how)
}
