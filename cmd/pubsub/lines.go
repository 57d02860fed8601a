package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/signal"
	"syscall"
	"time"

	"pubsub/internal/client"
)

// lineCount is the progress of publishing lines.
type lineCount struct {
	published, failed int
	bytes             int64 // read so far, with line ends
}

// publishLines publishes each line from lines until the channel is closed or ctx is done.
// It publishes at most rate lines a second; 0 means no limit. After each line it calls
// progress with the error of that line. It returns an error of reading, or that of ctx.
func publishLines(ctx context.Context, lines <-chan line, rate float64, publish func([]byte) error, progress func(lineCount, error)) (n lineCount, err error) {
	var next time.Time
	for {
		if !pause(ctx, time.Until(next)) {
			return n, context.Canceled
		}
		var l line
		var more bool
		select {
		case l, more = <-lines:
		case <-ctx.Done():
			return n, context.Canceled
		}
		if !more || l.readErr != nil {
			return n, l.readErr
		}
		if rate > 0 {
			next = time.Now().Add(time.Duration(min(float64(time.Second)/rate, math.MaxInt64/2)))
		}
		n.bytes += l.size
		err := errLineTooLong
		if !l.tooLong {
			err = publish(l.data)
		}
		if err == nil {
			n.published++
		} else {
			n.failed++
		}
		progress(n, err)
	}
}

// pause waits for d, or until ctx is done. It reports whether ctx is not done.
func pause(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// line is a line of a file.
type line struct {
	data    []byte // without the line end, which is LF or CR LF
	size    int64  // in the file, with the line end
	tooLong bool   // for a message; data is then empty
	readErr error  // the file cannot be read further; no other field is set
}

var errLineTooLong = fmt.Errorf("the line is longer than the maximum of %d MiB for a message", client.MaxMessageBytes>>20)

// readLines sends the lines of r to lines until r ends or ctx is done, and then closes
// lines.
func readLines(ctx context.Context, r io.Reader, lines chan<- line) {
	defer close(lines)
	b := bufio.NewReaderSize(r, 64<<10)
	for {
		l, ok := readLine(b)
		if !ok {
			return
		}
		select {
		case lines <- l:
		case <-ctx.Done():
			return
		}
		if l.readErr != nil {
			return
		}
	}
}

// readLine reads a line. It keeps no more of it in memory than the largest message. ok
// reports whether there was a line.
func readLine(b *bufio.Reader) (l line, ok bool) {
	for {
		part, err := b.ReadSlice('\n')
		l.size += int64(len(part))
		if !l.tooLong {
			l.data = append(l.data, part...)
		}
		ended := err == nil
		if ended && !l.tooLong {
			l.data = l.data[:len(l.data)-1]
			if n := len(l.data); n > 0 && l.data[n-1] == '\r' {
				l.data = l.data[:n-1]
			}
		}
		// One byte more than the longest message may be the CR before a LF.
		if limit := client.MaxMessageBytes; len(l.data) > limit+1 || len(l.data) > limit && ended {
			l.data, l.tooLong = nil, true
		}
		switch {
		case ended:
			return l, true
		case errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF):
			if len(l.data) > client.MaxMessageBytes {
				l.data, l.tooLong = nil, true
			}
			return l, l.size > 0
		default:
			return line{readErr: err}, true
		}
	}
}

// runLines runs the command for --lines.
func (c *pubCmd) runLines(p *process, publish func([]byte) error) error {
	in, size := p.stdin, int64(0) // 0 if unknown
	name := "standard input"
	if c.Lines != "-" {
		f, err := os.Open(c.Lines)
		var fi os.FileInfo
		if err == nil {
			defer f.Close()
			fi, err = f.Stat()
		}
		if err == nil && fi.IsDir() {
			err = syscall.EISDIR
		}
		if err != nil {
			return unreadable("lines", c.Lines, err, "the path of a file, or - for standard input")
		}
		name, in = c.Lines, f
		if fi.Mode().IsRegular() {
			size = fi.Size()
		}
	}
	typed := c.Lines == "-" && p.typed()
	if typed {
		fmt.Fprintln(p.stderr, "pubsub: each line is published as a message; press Ctrl-D to end")
	}
	bar := newGauge(p.stderr, "publishing")
	bar.terminal = bar.terminal && !typed // a bar would overwrite the typed text

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal kills the process
	lines := make(chan line)
	go readLines(ctx, in, lines) // a read that waits for input ends with the process
	n, err := publishLines(ctx, lines, c.Rate, publish, func(n lineCount, err error) {
		if err != nil && n.failed == 1 { // report the first failure at once
			bar.clear()
			p.report(c.advise(fmt.Errorf("line %d failed: %w", n.published+n.failed, err)))
		}
		if bar.terminal {
			bar.show(n.published+n.failed, n.bytes, size)
		}
	})
	bar.clear()

	failed := n.failed > 0
	switch {
	case !errors.Is(err, context.Canceled):
		if err != nil {
			failed = true
			p.report(fmt.Errorf("cannot read %s: %w", name, err))
		}
	case size > 0: // a signal is the normal end of an endless input
		failed = true
		p.report(fmt.Errorf("interrupted after line %d of %s", n.published+n.failed, name))
	}
	fmt.Fprintf(p.stderr, "pubsub: %d published, %d failed\n", n.published, n.failed)
	if failed {
		return errShown
	}
	return nil
}
