package local

import (
	"os"
	"testing"

	"pubsub"
	"pubsub/internal/backplane/backplanetest"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if name := os.Getenv(helperEnv); name != "" {
		runHelper(name)
	}
	goleak.VerifyTestMain(m)
}

func TestConformanceInMemory(t *testing.T) {
	backplanetest.Run(t, func(t *testing.T) pubsub.Backplane { return open(t, Options{InMemory: true}) })
}

func TestConformanceOnDisk(t *testing.T) {
	backplanetest.Run(t, func(t *testing.T) pubsub.Backplane { return open(t, Options{Dir: t.TempDir()}) })
}

// open opens a backplane that the test closes.
func open(t testing.TB, o Options) *Backplane {
	t.Helper()
	b, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
