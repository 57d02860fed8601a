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

	"pubsub"
)

// Broker is a node of ours.
type Broker struct {
	*Process

	// immutable
	Ops string // URL of its ops listener
}

// Build builds our broker into dir and returns the binary's path; flags are further
// ones of go build.
func Build(ctx context.Context, dir string, flags ...string) (binary string, err error) {
	binary = filepath.Join(dir, "pubsub")
	args := append(append([]string{"build", "-buildvcs=auto"}, flags...), "-o", binary, "pubsub/cmd/pubsub")
	if out, err := exec.CommandContext(ctx, "go", args...).CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return binary, nil
}

// StartBroker starts a broker on loopback, which ends at once when it is stopped,
// or ctx is done; flags are further ones of pubsub serve.
func StartBroker(ctx context.Context, binary, adminToken string, flags ...string) (*Broker, error) {
	addr, _, err := FreeAddress()
	if err != nil {
		return nil, err
	}
	ops, _, err := FreeAddress()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, binary, append([]string{"serve", "--listen=" + addr, "--ops-listen=" + ops, "--drain-timeout=0s"}, flags...)...)
	cmd.Env = append(os.Environ(), "PUBSUB_ADMIN_TOKEN="+adminToken)
	p, err := Start(cmd, addr)
	if err != nil {
		return nil, err
	}
	p.Profile = "http://" + ops
	return &Broker{Process: p, Ops: p.Profile}, nil
}

// CreateKey has the broker at addr create a signing key.
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
		err = errors.New("it has no value")
	}
	if err != nil {
		return pubsub.Key{}, fmt.Errorf("no key was created: %s: %w", resp.Status, err)
	}
	return key, nil
}

// Get returns the body of what url names, if that is answered with 200.
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
