package app

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// reader is the reader of a pipe, which can stop.
type reader struct {
	// stopped, if not nil, is closed when the reader resumes. It is a channel because a
	// goroutine that waits for a mutex stops the time of a synctest bubble.
	stopped chan struct{}

	mu   sync.Mutex
	text bytes.Buffer // guarded by mu
	err  error        // guarded by mu; of writes
}

func (r *reader) Write(p []byte) (int, error) {
	if r.stopped != nil {
		<-r.stopped
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return 0, r.err
	}
	return r.text.Write(p)
}

func (r *reader) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err = err
}

func (r *reader) lines() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Collect(strings.Lines(r.text.String()))
}

// numbered returns the lines 0 to n-1 as they are logged.
func numbered(n int) (want []string) {
	for i := range n {
		want = append(want, fmt.Sprintf("level=INFO msg=line n=%d\n", i))
	}
	return want
}

// untimed returns a log without times.
func untimed(out *Output) *slog.Logger {
	return slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
}

func TestOutputKeepsTheOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r reader
		out := NewOutput(&r)
		if NewOutput(out) != out {
			t.Error("NewOutput of an Output returned another Output")
		}
		log := untimed(out)
		for i := range 1000 {
			log.Info("line", "n", i)
		}
		fmt.Fprintln(out.To(&r), "the end")
		out.Flush()
		if got, want := r.lines(), append(numbered(1000), "the end\n"); !slices.Equal(got, want) {
			t.Errorf("lines %q, want %q", got, want)
		}
		if out.Dropped() != 0 {
			t.Errorf("%d dropped", out.Dropped())
		}
	})
}

// TestOutputOfStoppedReader checks that writers do not wait for a stopped reader, and that the
// queue has limits in lines and bytes. When the reader resumes, the number of missing lines
// is in their place.
func TestOutputOfStoppedReader(t *testing.T) {
	for _, tt := range []struct {
		name string
		text string
		all  int
		kept int // limit on lines
	}{
		{"lines", "x", 2 * maxOutputLines, maxOutputLines},
		{"bytes", strings.Repeat("x", 64<<10), 100, maxOutputBytes / (64 << 10)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := reader{stopped: make(chan struct{})}
				out := NewOutput(&r)
				log := NewLogger(out, load(t, "log-format", "json"))
				for i := range tt.all {
					log.Info(tt.text, "n", i)
					if i == 0 {
						synctest.Wait() // until the first line is being written, so that the queue only grows
					}
				}
				out.mu.Lock()
				if len(out.queue) > maxOutputLines || out.bytes > maxOutputBytes {
					t.Errorf("%d lines and %d bytes are queued", len(out.queue), out.bytes)
				}
				out.mu.Unlock()
				began := time.Now()
				out.Flush()
				if took := time.Since(began); took != flushTimeout {
					t.Errorf("Flush waited %v for a stopped reader", took)
				}
				began = time.Now()
				out.Flush()
				if took := time.Since(began); took != 0 {
					t.Errorf("Flush waited %v for the same write again", took)
				}
				dropped := int(out.Dropped())
				if dropped < tt.all-tt.kept-1 || dropped >= tt.all {
					t.Errorf("%d of %d lines were dropped with room for %d", dropped, tt.all, tt.kept)
				}

				close(r.stopped)
				synctest.Wait()
				log.Info("after")
				out.Flush()
				lines := r.lines()
				if len(lines) != tt.all-dropped+2 {
					t.Fatalf("got %d lines after %d of %d were dropped", len(lines), dropped, tt.all)
				}
				for i, line := range lines[:tt.all-dropped] {
					if !strings.Contains(line, fmt.Sprintf(`"n":%d}`, i)) {
						t.Fatalf("line %d is %.100q", i, line)
					}
				}
				notice := lines[tt.all-dropped]
				if !strings.Contains(notice, fmt.Sprintf(`"level":"WARN","msg":"log lines dropped","lines":%d}`, dropped)) {
					t.Errorf("after the gap: %q, want %d dropped", notice, dropped)
				}
				if !strings.Contains(lines[len(lines)-1], `"msg":"after"`) {
					t.Errorf("the last line is %q", lines[len(lines)-1])
				}
			})
		})
	}
}

// TestOutputOfFailingWriter checks that lines that cannot be written are counted, and
// announced when writes succeed again.
func TestOutputOfFailingWriter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r reader
		out := NewOutput(&r)
		r.fail(errors.New("no space left"))
		for range 3 {
			fmt.Fprintln(out, "lost")
			out.Flush()
		}
		if out.Dropped() != 3 {
			t.Errorf("%d dropped, want 3", out.Dropped())
		}
		r.fail(nil)
		fmt.Fprintln(out, "kept")
		out.Flush()
		want := []string{"pubsub: 3 lines were dropped because they were not read in time\n", "kept\n"}
		if got := r.lines(); !slices.Equal(got, want) {
			t.Errorf("lines %q, want %q", got, want)
		}
		if out.Dropped() != 3 {
			t.Errorf("%d dropped, want 3", out.Dropped())
		}
	})
}

// TestOutputOfMany checks that the lines of concurrent writers are neither mixed nor lost.
func TestOutputOfMany(t *testing.T) {
	var r reader
	out := NewOutput(&r)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 100 {
				io.WriteString(out, "a line\n")
			}
		})
	}
	wg.Wait()
	out.Flush()
	lines := r.lines()
	if len(lines) != 800 || slices.ContainsFunc(lines, func(l string) bool { return l != "a line\n" }) {
		t.Errorf("%d lines: %.200q", len(lines), lines)
	}
}
