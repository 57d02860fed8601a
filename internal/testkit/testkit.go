// Package testkit has helpers for the tests of several packages: waiting for a condition, a TCP
// proxy that can be cut, certificates, tokens, free addresses, and planting bugs. Its
// subpackages have clients that work with the bytes of the protocols, processes, NATS servers,
// and checks of delivery histories. Only tests and benchmarks import them.
package testkit

import (
	"bytes"
	"os"
	"sync"
	"testing"
	"time"
)

// Patience bounds every wait for an event that must happen. Most take
// milliseconds; a busy machine may need seconds.
const Patience = 60 * time.Second

// Eventually waits until ok returns true, and fails the test after Patience. The failure names
// the condition.
func Eventually(t testing.TB, condition string, ok func() bool) {
	t.Helper()
	if !Within(Patience, ok) {
		t.Fatalf("%s: not within %v", condition, Patience)
	}
}

// Within polls ok until it returns true, for at most d, and reports whether it
// did.
func Within(d time.Duration, ok func() bool) bool {
	for deadline := time.Now().Add(d); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			return false
		}
	}
	return true
}

// ReadFile returns the contents of a file.
func ReadFile(t testing.TB, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Buffer is a bytes.Buffer that several goroutines may use, such as for a log.
type Buffer struct {
	mu sync.Mutex
	b  bytes.Buffer // guarded by mu
}

func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

// String returns everything that has been written so far.
func (b *Buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
