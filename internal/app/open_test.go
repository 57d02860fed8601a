package app

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"pubsub/internal/backplane/local"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// TestStopWhileOpening stops a broker while the disk blocks the opening of its store.
func TestStopWhileOpening(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stuck := make(chan struct{})
		fs := errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
			if op.Kind == errorfs.OpFileSync {
				<-stuck
			}
			return nil
		}))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() {
			_, err := openLocal(ctx, local.Options{Dir: "/data", FS: fs})
			done <- err
		}()
		synctest.Wait()
		select {
		case err := <-done:
			t.Fatalf("the store is open: %v", err)
		default:
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("openLocal: %v", err)
		}
		close(stuck)
	})
}
