package app

import (
	"context"
	"fmt"
	"time"

	"pubsub"
	"pubsub/internal/backplane/local"
	"pubsub/internal/backplane/nats"
	"pubsub/internal/config"
)

// storeWait bounds how long a call waits for NATS where no client waits for it: a
// cluster of NATS servers that finds itself a new leader is waited for.
const storeWait = 30 * time.Second

// OpenStore opens what a broker with the settings cfg keeps everything in, for use
// without a broker. tell is told of trouble that the store lives with, and why it
// has to wait for NATS. When ctx is done, OpenStore returns its error at once.
func OpenStore(ctx context.Context, cfg *config.Config, tell func(error)) (pubsub.Backplane, error) {
	unreadable := func(kind, name string, err error) {
		tell(fmt.Errorf("the record of %s %q cannot be read, and is left out: %w", kind, name, err))
	}
	failed := func(event string, err error) { tell(fmt.Errorf("%s: %w", event, err)) }
	if len(cfg.NATS) > 0 {
		o := NATSOptions(cfg)
		o.Wait = storeWait
		o.Events = nats.Events{
			Waiting:    tell,
			Error:      failed,
			Fault:      func(f *nats.Fault) { tell(fmt.Errorf("%w; to do: %s", f, f.Action)) },
			Unreadable: unreadable,
		}
		return nats.Open(o)
	}
	b, err := openLocal(ctx, local.Options{
		Dir:         string(cfg.DataDir),
		DiskReserve: diskReserve(cfg),
		Events:      local.Events{Error: failed, Unreadable: unreadable},
	})
	if err != nil {
		return nil, fmt.Errorf("cannot open the store: %w", err)
	}
	return b, nil
}

// openLocal opens the embedded store. When ctx is done, it returns ctx's error at once,
// and the process must end. The disk may block the goroutine that opens the store;
// abandoning that goroutine loses no more than a SIGKILL does.
func openLocal(ctx context.Context, o local.Options) (*local.Backplane, error) {
	type result struct {
		b   *local.Backplane
		err error
	}
	opened := make(chan result, 1)
	go func() {
		b, err := local.Open(o)
		opened <- result{b, err}
	}()
	select {
	case r := <-opened:
		return r.b, r.err
	case <-ctx.Done():
		go func() {
			if r := <-opened; r.err == nil {
				_ = r.b.Close()
			}
		}()
		return nil, ctx.Err()
	}
}
