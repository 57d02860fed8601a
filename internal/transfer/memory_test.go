package transfer_test

import (
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"runtime/metrics"
	"testing"
	"time"

	"pubsub"
	"pubsub/internal/backplane/local"
	"pubsub/internal/testkit"
	"pubsub/internal/transfer"
)

// TestMemory checks that the export and import of 30 MB of messages need only a part of
// their size in memory.
func TestMemory(t *testing.T) {
	n, size := 100_000, 300
	if testkit.Race || !testkit.Long() { // five times faster with as many bytes
		n, size = 20_000, 1500
	}
	source := openLocal(t, local.Options{Dir: t.TempDir()})
	r := newRand(t)
	text := make([]byte, 1<<20)
	for i := range text {
		text[i] = byte(' ' + r.IntN(95))
	}
	waits := make([]func() (pubsub.Version, error), 0, 1000)
	for i := range n {
		at := r.IntN(len(text) - size)
		waits = append(waits, source.Put(t.Context(), pubsub.Message{Topic: pubsub.Topic(fmt.Sprint("sensor/", i)), Data: text[at : at+size], Retain: true, Published: time.Now()}))
		if len(waits) == cap(waits) {
			for _, wait := range waits {
				if _, err := wait(); err != nil {
					t.Fatal(err)
				}
			}
			waits = waits[:0]
		}
	}
	b := openLocal(t, local.Options{Dir: t.TempDir()})
	name := t.TempDir() + "/file"
	round := func(g *heapGauge) transfer.Result {
		if err := transfer.WriteFile(name, func(w io.Writer) error {
			g.w = w
			_, err := transfer.Export(t.Context(), g, source, transfer.Options{})
			return err
		}); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		g.r = f
		result, err := transfer.Import(t.Context(), g, b, transfer.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return result
	}
	if result := round(&heapGauge{most: math.MaxUint64}); result.Imported != n {
		t.Errorf("Import = %+v", result)
	}
	round(&heapGauge{most: math.MaxUint64}) // fills the caches of the stores
	before := heapInUse()
	g := &heapGauge{}
	result := round(g)
	if result.Present != n {
		t.Errorf("Import = %+v", result)
	}
	grown := int64(g.most) - int64(before)
	t.Logf("%d bytes of file; the heap grew by %d bytes at most", result.Bytes, grown)
	if grown > result.Bytes/3 {
		t.Errorf("the heap grew by %d bytes, which is too much of the file's %d", grown, result.Bytes)
	}
}

// heapGauge passes a file through and measures the heap after every MiB.
type heapGauge struct {
	r     io.Reader
	w     io.Writer
	bytes int    // since the last measurement
	most  uint64 // the largest heap, in bytes; math.MaxUint64 disables measurements
}

func (g *heapGauge) Read(b []byte) (int, error) {
	n, err := g.r.Read(b)
	g.passed(n)
	return n, err
}

func (g *heapGauge) Write(b []byte) (int, error) {
	g.passed(len(b))
	return g.w.Write(b)
}

func (g *heapGauge) passed(n int) {
	if g.bytes += n; g.bytes >= 1<<20 && g.most < math.MaxUint64 {
		g.bytes = 0
		g.most = max(g.most, heapInUse())
	}
}

// heapInUse returns the number of bytes of the heap that are in use.
func heapInUse() uint64 {
	runtime.GC()
	runtime.GC() // a second time, because pools survive one collection
	s := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}
