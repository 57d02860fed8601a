package testkit

import (
	"os"
	"testing"
)

// Long reports whether long tests run. "go test ./..." leaves them out, so that it stays quick;
// "make long" and .ci/run set LONG_TESTS=1 and run everything.
func Long() bool { return os.Getenv("LONG_TESTS") != "" }

// SkipUnlessLong skips t unless long tests run. A test is long if it takes more than a few
// seconds that no setting can shorten, such as one that measures memory or outlives a timeout.
func SkipUnlessLong(t testing.TB) {
	t.Helper()
	if !Long() {
		t.Skip("long: runs by make long, or with LONG_TESTS=1")
	}
}
