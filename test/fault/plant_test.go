//go:build linux

package fault_test

import (
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"pubsub/internal/testkit"
)

const (
	// faultsOfPlant bounds how many faults are injected until a planted bug is found.
	faultsOfPlant = 40
	// shortPatience is how long a run waits for a convergence that will not come.
	shortPatience = 10 * time.Second
)

// A broker with a bug planted in its source breaks a promise, and the checker finds which one.
// Without the bug it breaks none: see TestFaults.
func TestPlantedBugsAreFound(t *testing.T) {
	testkit.SkipUnlessLong(t)
	for _, bug := range []struct {
		name           string
		file, from, to string        // from becomes to
		fault          string        // that exposes the bug
		wait           time.Duration // until all have converged
		want           string        // the violation that the checker finds
	}{
		{"a resumed stream does not get what it has missed", "internal/server/ssesubscribe.go",
			"if o.late {\n\t\to.retained = nil", "if o.late || !since.IsZero() {\n\t\to.retained = nil",
			"a node is killed", shortPatience, `stream \d+ on node \d has version \d+ of topic t\d+, which (retains|was cleared by) version \d+`},
		{"a resumed stream gets messages again", "internal/server/ssesubscribe.go",
			"o.sub.Resume(nil, o.seen)", "o.sub.Resume(nil, pubsub.Version{})",
			"clients leave", testkit.Patience, `order: stream \d+ receives version (\d+) of topic t\d+ after version \d+`},
		{"a session does not get retained messages", "internal/server/mqttsubscribe.go",
			"err != nil || !want.SendRetained {", "err != nil || want.SendRetained {",
			"a node is terminated", shortPatience, `session \d+ on node \d has a clear or nothing of topic t\d+, which retains version \d+`},
		{"a topic is unsubscribed when one of several subscribers has left", "internal/hub/index.go",
			"if t.joins > 0 {", "if t.joins > 0 { if t.call == subscribed { h.opts.Backplane.Unsubscribe(name); t.call = nil }",
			"clients leave", shortPatience, `(stream|session) \d+ on node \d has .* of topic t\d+, which (retains|was cleared by)`},
		{"a message that is not stored is acknowledged", "internal/server/publish.go",
			"if err != nil {\n\t\ts.o.Events.Failed(", "if err != nil && !unavailable(err) {\n\t\ts.o.Events.Failed(",
			"all NATS servers are stopped or killed", testkit.Patience, `version: the response to a POST of publisher \d: not a version`},
	} {
		t.Run(bug.name, func(t *testing.T) {
			t.Parallel()
			r := newRun(t, plant(t, bug.file, bug.from, bug.to))
			r.patience = bug.wait
			for range faultsOfPlant {
				if !r.checker.ok() {
					break
				}
				for _, f := range faults {
					if f.name == bug.fault {
						r.inject(f)
					}
				}
			}
			r.end()
			found := strings.Join(r.checker.List(), "\n")
			if !regexp.MustCompile(bug.want).MatchString(found) {
				t.Errorf("seed %d: the checker does not find %q, but:\n%s\n%s", *seed, bug.want, found, r.nodes.logs())
			}
		})
	}
}

// plant returns the broker's binary with a bug planted in a file of its source.
func plant(t *testing.T, file, from, to string) (binary string) {
	t.Helper()
	binary, err := build(t.TempDir(), "-overlay="+testkit.Plant(t, filepath.Join("..", "..", file), from, to))
	if err != nil {
		t.Fatal(err)
	}
	return binary
}
