//go:build linux

package attack_test

import (
	"context"
	"crypto/tls"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"pubsub/internal/testkit"
	"pubsub/internal/testkit/process"
)

const (
	adminToken = "admin-token-of-the-attack"
	// descriptors is how many file descriptors the broker may open.
	descriptors = 512
)

// broker is a process of the binary.
type broker struct {
	*process.Broker

	// immutable
	t   *testing.T
	tls *tls.Config // of clients; nil without TLS
}

// certificate is the files of a certificate and its key.
type certificate struct{ cert, key string }

// start starts a broker on the data directory dir and waits until it is ready. With a
// certificate it speaks TLS.
func start(t *testing.T, binary, dir string, cert *certificate) *broker {
	t.Helper()
	b := &broker{t: t}
	flags := []string{"--data-dir=" + dir, "--max-connections=50"}
	if cert != nil {
		flags = append(flags, "--tls-cert="+cert.cert, "--tls-key="+cert.key)
		b.tls = &tls.Config{InsecureSkipVerify: true}
	}
	var err error
	b.Broker, err = process.Serve{
		Binary: binary, AdminToken: adminToken, Flags: flags,
		Within: os.Args[:1], Env: []string{execWithin + "=" + strconv.Itoa(descriptors)},
	}.Start(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Kill)
	if err := b.WaitReady(testkit.Patience); err != nil {
		t.Fatal(err)
	}
	return b
}

// kill ends the process by SIGKILL and checks that it was still running.
func (b *broker) kill() {
	b.t.Helper()
	b.Kill()
	if status := b.State().Sys().(syscall.WaitStatus); !status.Signaled() || status.Signal() != syscall.SIGKILL {
		b.t.Errorf("the broker has ended by itself: %v\n%s", b.State(), b.Tail())
	}
	if text := b.Output(); strings.Contains(text, "DATA RACE") {
		b.t.Errorf("data race:\n%.4000s", text)
	}
}

// checkBounds checks that the broker is within its bounds and that its metrics agree.
// It returns how many idle connections the broker has closed.
func (b *broker) checkBounds(t *testing.T) (closed float64) {
	t.Helper()
	if b.Ended() {
		return 0 // kill reports it
	}
	ctx, cancel := context.WithTimeout(context.Background(), testkit.Patience)
	defer cancel()
	m, err := process.ReadMetrics(ctx, b.Ops)
	if err != nil {
		t.Errorf("the ops listener: %v", err)
		return 0
	}
	files, err := b.OpenFiles()
	if err != nil || files >= descriptors {
		t.Errorf("%d descriptors, %v", files, err)
	}
	if open, most := m["pubsub_sockets"], m["pubsub_sockets_max"]; most != descriptors/2 || open > most {
		t.Errorf("%v connections of at most %v", open, most)
	}
	if n := m[`pubsub_errors_total{op="accept"}`]; n != 0 {
		t.Errorf("%v errors of accept", n)
	}
	return m[`pubsub_sockets_closed_total{limit="max-sockets"}`]
}

// dial connects as a client does, with TLS if the broker speaks it.
func (b *broker) dial(ctx context.Context) (net.Conn, error) {
	d := net.Dialer{Timeout: testkit.Patience}
	if b.tls != nil {
		return (&tls.Dialer{NetDialer: &d, Config: b.tls}).DialContext(ctx, "tcp", b.Addr)
	}
	return d.DialContext(ctx, "tcp", b.Addr)
}

// base returns the scheme and the host of the broker's URLs.
func (b *broker) base() string {
	if b.tls != nil {
		return "https://" + b.Addr
	}
	return "http://" + b.Addr
}
