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

// storeWait is how long a call of a command waits for NATS. No client waits for it, so it can
// outlast the election of a new leader.
const storeWait = 30 * time.Second

// OpenStore opens the store of a broker with the settings cfg for use without a broker. It
// calls report for errors from which the store recovers, and while it waits for NATS. When
// ctx is done, OpenStore returns the error of ctx at once.
func OpenStore(ctx context.Context, cfg *config.Config, report func(error)) (pubsub.Backplane, error) {
	unreadable := func(kind, name string, err error) {
		report(fmt.Errorf("the record of %s %q cannot be read and is left out: %w", kind, name, err))
	}
	failed := func(event string, err error) { report(fmt.Errorf("%s: %w", event, err)) }
	if len(cfg.NATS) > 0 {
		o := NATSOptions(cfg)
		o.Wait = storeWait
		o.Events = nats.Events{
			Waiting:    report,
			Error:      failed,
			Fault:      func(f *nats.Fault) { report(fmt.Errorf("%w; to do: %s", f, f.Action)) },
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

// openLocal opens the embedded store. When ctx is done, openLocal returns the error of ctx at
// once, and the process must end: the disk may still block the goroutine that opens the
// store. Abandoning that goroutine loses no more than a SIGKILL does.
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
