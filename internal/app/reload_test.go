package app

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pubsub/internal/config"
)

// TestReloadThatHangs checks that a hanging reload blocks neither the shutdown of the node nor
// another reload.
func TestReloadThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		requests := make(chan struct{})
		hang := make(chan struct{}) // closed when the file system responds
		n := &node{metrics: newMetrics("test"), log: slog.New(slog.NewTextHandler(&log, nil)), cfg: config.Default()}
		n.throttle = newThrottle(n.log)
		n.o.Reload = requests
		n.o.ConfigReload = func() (*config.Config, error) {
			<-hang
			return nil, errors.New("reading was released too late")
		}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- n.wait(ctx, nil) }()
		requests <- struct{}{}
		time.Sleep(reloadTimeout + time.Second)
		synctest.Wait()
		if got := log.String(); !strings.Contains(got, `msg="reload failed" error="reading the settings and their files takes longer than 10s"`) {
			t.Errorf("the log: %s", got)
		}
		requests <- struct{}{} // accepted although the first still hangs
		synctest.Wait()
		began := time.Now()
		stop()
		if err := <-ended; err != nil || time.Since(began) != 0 {
			t.Errorf("ended after %v with %v", time.Since(began), err)
		}
		close(hang)
	})
}
