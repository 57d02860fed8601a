package local

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"pubsub"
)

// TestKill repeatedly kills a process of 64 publishers at a random moment, always with the
// same directory.
func TestKill(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	h := newHistory()
	repeat(t, 50, func(rng *rand.Rand) {
		for _, line := range publishAndKill(t, dir, 1+rng.IntN(1000)) {
			h.sawLine(t, line)
		}
		b := open(t, Options{Dir: dir})
		h.check(t, b)
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
}

// publishAndKill runs a process of publishers on dir and kills it after that number of
// lines, each of which is an acknowledgement. It returns all lines.
func publishAndKill(t *testing.T, dir string, lines int) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := helperCommand(ctx, t, "publish", dir)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var all []string
	scanner := bufio.NewScanner(out)
	for scanner.Scan() {
		if all = append(all, scanner.Text()); len(all) == lines {
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	err = cmd.Wait()
	if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.Exited() {
		t.Fatalf("the publishers exited by themselves: %v\n%s", err, &stderr)
	}
	return all
}

func init() { helpers["publish"] = helpPublish }

// helpPublish publishes endlessly with 64 publishers. For each acknowledged message it
// prints a line with its topic, version and value.
func helpPublish(dir string) error {
	b, err := Open(Options{Dir: dir})
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	for p := range 64 {
		wg.Go(func() {
			for i := 0; ; i++ {
				m := pubsub.Message{
					Topic:     pubsub.Topic(fmt.Sprintf("kill/%d", (p+i)%100)),
					Data:      fmt.Appendf(nil, "%d/%d/%d", os.Getpid(), p, i),
					Published: time.Now(),
				}
				v, err := b.Put(context.Background(), m)()
				if err != nil {
					fmt.Fprintln(os.Stderr, err)
					os.Exit(2)
				}
				// The line is short, so its write to the pipe is atomic.
				if _, err := fmt.Printf("%s %v %s\n", m.Topic, v, m.Data); err != nil {
					os.Exit(2)
				}
			}
		})
	}
	wg.Wait()
	return nil
}
