package scenario

import (
	"fmt"
	"maps"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// heap returns how many bytes of the heap are in use after a collection.
func heap() int64 {
	runtime.GC()
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return int64(s.HeapAlloc)
}

// live returns how many bytes of memory are in use after a collection.
func live() int64 {
	runtime.GC() // sync.Pool drops its items with the second collection
	runtime.GC()
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return int64(s.HeapAlloc + s.StackInuse)
}

// footprint is the resources of a process.
type footprint struct {
	goroutines     int
	fds            map[string][]string
	heap, resident int64
}

// footprint returns the resources of the process once they are stable and it has at most idle
// goroutines.
func (c *churn) footprint(idle int) (f footprint) {
	t := c.n.t
	t.Helper()
	c.awaitEmpty()
	within(func() bool { return runtime.NumGoroutine() <= idle })
	for range 3 { // sync.Pool drops its items with the second collection
		f.heap = heap()
	}
	debug.FreeOSMemory()
	statm, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.ParseInt(strings.Fields(string(statm))[1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	f.resident = pages * int64(os.Getpagesize())
	f.goroutines = runtime.NumGoroutine()
	f.fds = descriptors(t)
	return f
}

// descriptors returns what the open descriptors of this process refer to, by kind: socket, pipe, or
// the system's name. It leaves out files, because the store opens and closes its own at any time.
func descriptors(t testing.TB) map[string][]string {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[string][]string)
	for _, e := range entries {
		target, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err != nil {
			continue // closed since, like the directory's own
		}
		if strings.HasPrefix(target, "/") {
			continue
		}
		kind := target
		if k, _, ok := strings.Cut(target, ":["); ok && k != "anon_inode" {
			kind = k
		}
		found[kind] = append(found[kind], target)
	}
	return found
}

// nameSockets returns the addresses and states of the sockets among targets, as in /proc/net/tcp.
func nameSockets(targets []string) string {
	ends := make(map[string]string)
	for _, table := range []string{"/proc/self/net/tcp", "/proc/self/net/tcp6"} {
		b, _ := os.ReadFile(table)
		for line := range strings.Lines(string(b)) {
			if f := strings.Fields(line); len(f) > 9 {
				ends["socket:["+f[9]+"]"] = strings.Join(f[1:4], " ")
			}
		}
	}
	counts := make(map[string]int)
	for _, target := range targets {
		end, ok := ends[target]
		if !ok {
			end = "unknown"
		}
		counts[end]++
	}
	var b strings.Builder
	for _, end := range slices.Sorted(maps.Keys(counts)) {
		fmt.Fprintf(&b, "%5d %s\n", counts[end], end)
	}
	return b.String()
}
