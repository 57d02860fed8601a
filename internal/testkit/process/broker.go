//go:build linux

package process

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"pubsub"
)

// Broker is a process of our broker.
type Broker struct {
	*Process

	// immutable
	Ops string // URL of its ops listener
}

// Build builds our broker into dir and returns the path of the binary. flags are
// further flags of go build.
func Build(ctx context.Context, dir string, flags ...string) (binary string, err error) {
	binary = filepath.Join(dir, "pubsub")
	args := append(append([]string{"build", "-buildvcs=auto"}, flags...), "-o", binary, "pubsub/cmd/pubsub")
	if out, err := exec.CommandContext(ctx, "go", args...).CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return binary, nil
}

// Serve describes a process of our broker.
type Serve struct {
	Binary     string
	AdminToken string
	Addr, Ops  string   // host and port of its listeners; chosen if empty
	Flags      []string // further flags of pubsub serve

	// Within, if not empty, is a program with arguments that executes the program of
	// its further arguments, and Env has further variables for it.
	Within, Env []string
}

// Start starts the broker and returns when it listens. It kills the broker when ctx
// is done.
func (s Serve) Start(ctx context.Context) (*Broker, error) {
	for _, addr := range []*string{&s.Addr, &s.Ops} {
		if *addr == "" {
			var err error
			if *addr, _, err = FreeAddress(); err != nil {
				return nil, err
			}
		}
	}
	args := slices.Concat(s.Within, []string{s.Binary, "serve", "--listen=" + s.Addr, "--ops-listen=" + s.Ops}, s.Flags)
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = append(append(os.Environ(), "PUBSUB_ADMIN_TOKEN="+s.AdminToken), s.Env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // even if it hangs
	p, err := Start(cmd, s.Addr)
	if err != nil {
		return nil, err
	}
	p.Profile = "http://" + s.Ops
	return &Broker{Process: p, Ops: p.Profile}, nil
}

// StartBroker starts a broker on loopback that drains its clients at once when it
// is stopped. It kills the broker when ctx is done. flags are further flags of pubsub
// serve.
func StartBroker(ctx context.Context, binary, adminToken string, flags ...string) (*Broker, error) {
	return Serve{Binary: binary, AdminToken: adminToken, Flags: append([]string{"--drain-timeout=0s"}, flags...)}.Start(ctx)
}

// WaitReady waits until the broker is ready, for at most d, and kills it otherwise.
func (b *Broker) WaitReady(d time.Duration) error {
	return b.waitUntil("ready", d, func() error {
		_, err := Get(context.Background(), b.Ops+"/readyz")
		return err
	})
}

// OpenFiles returns how many descriptors the process has open.
func (b *Broker) OpenFiles() (int, error) {
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", b.Pid()))
	return len(files), err
}

// CreateKey asks the broker at addr to create a signing key.
func CreateKey(addr, adminToken string) (pubsub.Key, error) {
	req, err := http.NewRequest(http.MethodPost, "http://"+addr+"/admin/keys", nil)
	if err != nil {
		return pubsub.Key{}, err
	}
	req.Header.Set("Fastly-Key", adminToken)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return pubsub.Key{}, err
	}
	defer resp.Body.Close()
	var key pubsub.Key
	if err = json.NewDecoder(resp.Body).Decode(&key); err == nil && key.Value == "" {
		err = errors.New("the key has no value")
	}
	if err != nil {
		return pubsub.Key{}, fmt.Errorf("creating a key: %s: %w", resp.Status, err)
	}
	return key, nil
}

// Get returns the body of the page at url. Any status but 200 is an error.
func Get(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", url, resp.Status)
	}
	return body, err
}
