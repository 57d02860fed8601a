//go:build linux

package attack_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"pubsub/bench/process"
)

const (
	adminToken = "admin-token-of-the-attack"
	// descriptors is how many the broker may have open.
	descriptors = 512
	// patience bounds every wait for something that is to happen.
	patience = 60 * time.Second
)

// broker is a process of the binary.
type broker struct {
	// immutable
	t         *testing.T
	addr, ops string
	tls       *tls.Config // of clients; nil without TLS
	log       string      // file
	cmd       *exec.Cmd
	exited    chan struct{} // closed when the process has ended
}

// certificate is what brokers that speak TLS show, in files.
type certificate struct{ cert, key string }

// start starts a broker on dir, and returns once it is ready; with cert it speaks TLS.
func start(t *testing.T, binary, dir string, cert *certificate) *broker {
	t.Helper()
	b := &broker{t: t, log: filepath.Join(t.TempDir(), "log"), exited: make(chan struct{})}
	for _, addr := range []*string{&b.addr, &b.ops} {
		var err error
		if *addr, _, err = process.FreeAddress(); err != nil {
			t.Fatal(err)
		}
	}
	args := []string{binary, "serve", "--listen=" + b.addr, "--ops-listen=" + b.ops, "--data-dir=" + dir, "--max-connections=50"}
	if cert != nil {
		args = append(args, "--tls-cert="+cert.cert, "--tls-key="+cert.key)
		b.tls = &tls.Config{InsecureSkipVerify: true}
	}
	log, err := os.Create(b.log)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	b.cmd = exec.Command(os.Args[0], args...)
	b.cmd.Env = append(os.Environ(), execWithin+"="+strconv.Itoa(descriptors), "PUBSUB_ADMIN_TOKEN="+adminToken)
	b.cmd.Stderr = log
	b.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := b.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		b.cmd.Wait()
		close(b.exited)
	}()
	t.Cleanup(func() { b.cmd.Process.Kill(); <-b.exited })
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		if resp, err := http.Get("http://" + b.ops + "/readyz"); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return b
			}
		}
		if b.ended() || time.Now().After(deadline) {
			t.Fatalf("the broker is not ready:\n%s", b.tail())
		}
	}
}

func (b *broker) ended() bool {
	select {
	case <-b.exited:
		return true
	default:
		return false
	}
}

// kill ends the process by SIGKILL. That must be what ends it.
func (b *broker) kill() {
	b.t.Helper()
	b.cmd.Process.Signal(syscall.SIGKILL)
	<-b.exited
	if status := b.cmd.ProcessState.Sys().(syscall.WaitStatus); !status.Signaled() || status.Signal() != syscall.SIGKILL {
		b.t.Errorf("the broker has ended by itself: %v\n%s", b.cmd.ProcessState, b.tail())
	}
	if text, err := os.ReadFile(b.log); err != nil || strings.Contains(string(text), "DATA RACE") {
		b.t.Errorf("%v\n%.4000s", err, text)
	}
}

// tail returns the last lines of the log.
func (b *broker) tail() string {
	text, err := os.ReadFile(b.log)
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-4000):])
}

// metrics returns the metrics without labels, from the ops listener.
func (b *broker) metrics() (map[string]float64, error) {
	resp, err := http.Get("http://" + b.ops + "/metrics")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	m := make(map[string]float64)
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), " ")
		if v, err := strconv.ParseFloat(value, 64); err == nil {
			m[name] = v
		}
	}
	return m, lines.Err()
}

// openFiles returns how many descriptors the process has.
func (b *broker) openFiles() (int, error) {
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", b.cmd.Process.Pid))
	return len(files), err
}

// dial connects as a client does, with TLS if the broker speaks it.
func (b *broker) dial(ctx context.Context) (net.Conn, error) {
	d := net.Dialer{Timeout: patience}
	if b.tls != nil {
		return (&tls.Dialer{NetDialer: &d, Config: b.tls}).DialContext(ctx, "tcp", b.addr)
	}
	return d.DialContext(ctx, "tcp", b.addr)
}

// newCertificate makes a certificate that signs itself.
func newCertificate(t *testing.T) *certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	c := &certificate{filepath.Join(t.TempDir(), "cert.pem"), filepath.Join(t.TempDir(), "key.pem")}
	for _, f := range []struct {
		path  string
		block pem.Block
	}{{c.cert, pem.Block{Type: "CERTIFICATE", Bytes: der}}, {c.key, pem.Block{Type: "PRIVATE KEY", Bytes: private}}} {
		if err := os.WriteFile(f.path, pem.EncodeToMemory(&f.block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return c
}
