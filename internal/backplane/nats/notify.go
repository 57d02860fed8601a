package nats

import (
	"context"
	"sync"
	"time"
)

// listeners are channels with one slot each that are notified together.
type listeners struct {
	mu  sync.Mutex
	all map[chan<- struct{}]struct{} // guarded by mu
}

func newListeners() *listeners { return &listeners{all: map[chan<- struct{}]struct{}{}} }

// add makes c a listener until the returned function is called.
func (l *listeners) add(c chan<- struct{}) (remove func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all[c] = struct{}{}
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.all, c)
	}
}

func (l *listeners) notify() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.all {
		notify(c)
	}
}

// notify fills the slot of a channel with one slot.
func notify(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// drain empties the slot of a channel with one slot.
func drain(c <-chan struct{}) {
	select {
	case <-c:
	default:
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// sleep reports whether d has passed before ctx was done.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
