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

// Reading the settings again delays nothing, however long it takes: the node stops when
// asked to, and accepts another request to read them.
func TestReloadThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		asked := make(chan struct{})
		hang := make(chan struct{}) // a file system that does not answer
		n := &node{metrics: newMetrics("test"), log: slog.New(slog.NewTextHandler(&log, nil)), cfg: config.Default()}
		n.throttle = newThrottle(n.log)
		n.o.Reload = asked
		n.o.ConfigReload = func() (*config.Config, error) {
			<-hang
			return nil, errors.New("read at last")
		}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- n.wait(ctx, nil) }()
		asked <- struct{}{}
		time.Sleep(reloadTimeout + time.Second)
		synctest.Wait()
		if got := log.String(); !strings.Contains(got, `msg="reload failed" error="reading the settings and the files that they name takes longer than 10s"`) {
			t.Errorf("the log: %s", got)
		}
		asked <- struct{}{} // taken though the first still hangs
		synctest.Wait()
		began := time.Now()
		stop()
		if err := <-ended; err != nil || time.Since(began) != 0 {
			t.Errorf("ended after %v with %v", time.Since(began), err)
		}
		close(hang)
	})
}
