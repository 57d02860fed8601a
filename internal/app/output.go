package app

import (
	"bytes"
	"fmt"
	"io"
	"sync"
	"time"
)

const (
	// maxOutputBytes and maxOutputLines bound the queue of an [Output].
	maxOutputBytes = 1 << 20
	maxOutputLines = 8192
	// flushTimeout limits how long [Output.Flush] waits, because a process that ends must
	// not wait for a stopped reader.
	flushTimeout = 2 * time.Second
)

// Output writes lines in the background. A pipe whose reader has stopped blocks its writers,
// and a logger that writes to it directly blocks every goroutine that logs. An Output never
// blocks: when its queue is full it drops lines, counts them, and announces how many are
// missing as soon as lines are read again.
// Its methods may be called concurrently.
type Output struct {
	w io.Writer // immutable

	mu sync.Mutex
	// guarded by mu
	queue   []outputLine
	bytes   int                   // in queue
	lost    int                   // lines dropped since the last line of queue
	dropped uint64                // lines dropped so far
	notice  func(lost int) []byte // formats the line that announces missing lines
	idle    chan struct{}         // closed when queue has been written; nil while nothing is being written
	taken   int                   // lines taken off queue so far
	stuck   int                   // value of taken when Flush last gave up; -1 if it never did
}

// outputLine is a line of an [Output].
type outputLine struct {
	w         io.Writer
	text      []byte
	announces int // number of lost lines; 0 for an ordinary line
}

// NewOutput returns an Output whose Write passes lines to w. If w is an Output, NewOutput
// returns w.
func NewOutput(w io.Writer) *Output {
	if o, ok := w.(*Output); ok {
		return o
	}
	return &Output{w: w, stuck: -1, notice: func(lost int) []byte {
		return fmt.Appendf(nil, "pubsub: %d lines were dropped because they were not read in time\n", lost)
	}}
}

// Write queues p, which should be whole lines, or drops it. It never fails.
func (o *Output) Write(p []byte) (int, error) {
	o.add(o.w, p)
	return len(p), nil
}

// To returns a writer to w that keeps the order between its lines and those of o.
func (o *Output) To(w io.Writer) io.Writer { return &outputTo{o, w} }

type outputTo struct {
	o *Output
	w io.Writer
}

func (t *outputTo) Write(p []byte) (int, error) {
	t.o.add(t.w, p)
	return len(p), nil
}

func (o *Output) add(w io.Writer, p []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.queue) >= maxOutputLines || o.bytes+len(p) > maxOutputBytes {
		o.lost++
		o.dropped++
		return
	}
	o.announceLost()
	o.append(outputLine{w: w, text: bytes.Clone(p)})
	if o.idle == nil {
		o.idle = make(chan struct{})
		go o.drain()
	}
}

// append adds l to the queue; mu must be held.
func (o *Output) append(l outputLine) {
	o.queue = append(o.queue, l)
	o.bytes += len(l.text)
}

// announceLost queues a line that announces the missing lines, if there are any; mu must be held.
func (o *Output) announceLost() {
	if o.lost > 0 {
		o.append(outputLine{w: o.w, text: o.notice(o.lost), announces: o.lost})
		o.lost = 0
	}
}

// drain writes lines of the queue until it is empty.
func (o *Output) drain() {
	var err error
	for {
		l, ok := o.next(err)
		if !ok {
			return
		}
		_, err = l.w.Write(l.text)
		if err != nil {
			o.failed(l)
		}
	}
}

// next takes a line off the queue. err is the error of the last write. If the queue is empty,
// ok is false and the writing goroutine must end.
func (o *Output) next(err error) (l outputLine, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.queue) == 0 && err == nil {
		o.announceLost()
	}
	if len(o.queue) == 0 {
		close(o.idle)
		o.idle, o.queue = nil, nil
		return l, false
	}
	l = o.queue[0]
	o.queue[0] = outputLine{}
	o.queue = o.queue[1:]
	o.bytes -= len(l.text)
	o.taken++
	return l, true
}

// failed counts a line that could not be written.
func (o *Output) failed(l outputLine) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if l.announces > 0 {
		o.lost += l.announces // counted when they were dropped
		return
	}
	o.lost++
	o.dropped++
}

// setNotice makes f format the line that announces missing lines.
func (o *Output) setNotice(f func(lost int) []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.notice = f
}

// Dropped returns how many lines have been dropped so far.
func (o *Output) Dropped() uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.dropped
}

// Flush waits until all lines are written, for two seconds at most. After such a timeout it
// does not wait again until a line is written.
func (o *Output) Flush() {
	o.mu.Lock()
	idle, stuck := o.idle, o.taken == o.stuck
	o.mu.Unlock()
	if idle == nil || stuck {
		return
	}
	late := time.NewTimer(flushTimeout)
	defer late.Stop()
	select {
	case <-idle:
	case <-late.C:
		o.mu.Lock()
		o.stuck = o.taken
		o.mu.Unlock()
	}
}
