package local

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"pubsub"
)

// TestNoDescriptors runs a process in which a goroutine takes every free descriptor, as
// connections do.
func TestNoDescriptors(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := helperCommand(ctx, t, "starve", dir).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "recovered") {
		t.Fatalf("the process did not recover: %v\n%.3000s", err, out)
	}
	t.Logf("%s", out)
	b := open(t, Options{Dir: dir})
	defer b.Close()
	checkStats(t, b)
}

func init() { helpers["starve"] = helpStarve }

// helpStarve puts messages that need many logs and tables while none of 256 descriptors is
// free, and then while every descriptor that the store closes is taken at once.
func helpStarve(dir string) error {
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: 256, Max: 256}); err != nil {
		return err
	}
	b, err := Open(Options{Dir: dir, DiskReserve: 1})
	if err != nil {
		return err
	}
	var takers sync.WaitGroup
	var greedy, over atomic.Bool
	full := make(chan struct{})
	takers.Go(func() {
		var taken []*os.File
		defer func() {
			for _, f := range taken {
				f.Close()
			}
		}()
		for once := sync.OnceFunc(func() { close(full) }); !over.Load(); {
			f, err := os.Open(os.DevNull)
			if err == nil {
				taken = append(taken, f)
				continue
			}
			once()
			if !greedy.Load() {
				time.Sleep(time.Millisecond)
			}
		}
	})
	<-full
	put := func(n int) (int64, error) { return putMany(b, n) }
	kept, err := put(1000)
	if err != nil || kept != 1000 {
		return fmt.Errorf("without free descriptors %d of 1000 were kept: %w", kept, err)
	}
	greedy.Store(true)
	if kept, err = put(400); err != nil {
		return err
	}
	fmt.Printf("with every closed descriptor taken %d of 400 were kept\n", kept)
	over.Store(true)
	takers.Wait()
	for began := time.Now(); ; {
		if _, err = put(1); err == nil && b.engine.log.stalled() == nil {
			break
		}
		if time.Since(began) > 10*time.Second {
			return fmt.Errorf("with free descriptors: %w", err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	if kept, err = put(100); err != nil || kept != 100 {
		return fmt.Errorf("with free descriptors %d of 100 were kept: %w", kept, err)
	}
	fmt.Println("the store recovered")
	return b.Close()
}

// putMany puts n messages of 32 KiB that do not compress, and returns the number of those
// kept. [pubsub.ErrUnavailable] does not count as an error.
func putMany(b *Backplane, n int) (int64, error) {
	const writers = 8
	var kept atomic.Int64
	failed := make(chan error, writers)
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			rng := rand.NewChaCha8([32]byte{byte(w)})
			for i := w; i < n; i += writers {
				data := make([]byte, 32<<10)
				rng.Read(data)
				_, err := b.Put(context.Background(), message(pubsub.Topic(fmt.Sprint("t/", i)), string(data)))()
				switch {
				case err == nil:
					kept.Add(1)
				case !errors.Is(err, pubsub.ErrUnavailable):
					failed <- err
					return
				}
			}
		})
	}
	wg.Wait()
	close(failed)
	return kept.Load(), <-failed
}
