//go:build e2e

package e2e

import (
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"pubsub/internal/mqtt"
)

// TestPausedProcess: a broker that was stopped for longer than a keep-alive, like a virtual machine
// during its migration, does not end its clients, because their pings are unread in its sockets.
// Nor does it end a client whose CONNECT is unread.
func TestPausedProcess(t *testing.T) {
	for _, holder := range []string{"parked", "portable"} {
		t.Run(holder, func(t *testing.T) {
			const clients, keepAlive, pause = 500, 2, 6 * time.Second
			args := []string{"--handshake-timeout=2s"}
			if holder == "portable" {
				args = append(args, "--holder=portable")
			}
			b := startBroker(t, args...)
			token := b.token(t, []string{"t"}, nil)
			stop := make(chan struct{})
			var ended atomic.Int64
			var running sync.WaitGroup
			for i := range clients {
				s := mustOpenSession(t, b, token, fmt.Sprintf("paused-%d", i), keepAlive)
				running.Go(func() {
					for s.Send(&mqtt.Pingreq{}) == nil {
						select {
						case <-stop:
							return
						case <-time.After(500 * time.Millisecond):
						}
					}
				})
				running.Go(func() {
					for {
						p, err := s.Read()
						if err == nil && p.Type() == mqtt.TypePingresp {
							continue
						}
						select {
						case <-stop:
						default:
							ended.Add(1)
						}
						return
					}
				})
			}
			pid := b.process.cmd.Process.Pid
			if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			time.Sleep(pause)
			if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
				t.Fatal(err)
			}
			time.Sleep(keepAlive * 3 / 2 * time.Second) // long enough for the keep-alive to expire
			if n := ended.Load(); n > 0 {
				t.Errorf("%d of %d clients were disconnected", n, clients)
			}
			close(stop)
			b.process.kill()
			running.Wait()
		})
	}
}
