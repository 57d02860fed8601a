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
	// harmsOfPlant is how often harm is done at most until a planted bug is found.
	harmsOfPlant = 40
	// soon is how long is waited for what will not come.
	soon = 10 * time.Second
)

// A broker with a bug planted in its source breaks a promise, and the history says
// which. As it is it breaks none: see TestFaults.
func TestPlantedBugsAreFound(t *testing.T) {
	for _, bug := range []struct {
		name           string
		file, from, to string        // where, and what becomes what
		harm           string        // that shows it
		wait           time.Duration // for all to converge
		says           string        // what the history says then
	}{
		{"a stream that resumes is not given what it has missed", "internal/server/ssesubscribe.go",
			"if o.late {\n\t\to.retained = nil", "if o.late || !since.IsZero() {\n\t\to.retained = nil",
			"a node is killed", soon, `stream \d+ on node \d has version \d+ of topic t\d+, which (retains|was cleared by) version \d+`},
		{"a stream is given again what came while it resumed", "internal/server/ssesubscribe.go",
			"o.sub.Resume(nil, o.seen)", "o.sub.Resume(nil, pubsub.Version{})",
			"clients leave", testkit.Patience, `order: stream \d+ is given version (\d+) of topic t\d+ after version \d+`},
		{"a session is not given what is retained", "internal/server/mqttsubscribe.go",
			"err != nil || !want.SendRetained {", "err != nil || want.SendRetained {",
			"a node is told to end", soon, `session \d+ on node \d has a clear or nothing of topic t\d+, which retains version \d+`},
		{"a topic is not wanted any more when one of several has left", "internal/hub/index.go",
			"if t.joins > 0 {", "if t.joins > 0 { if t.call == subscribed { h.opts.Backplane.Unsubscribe(name); t.call = nil }",
			"clients leave", soon, `(stream|session) \d+ on node \d has .* of topic t\d+, which (retains|was cleared by)`},
		{"what is not kept is acknowledged", "internal/server/publish.go",
			"if err != nil {\n\t\ts.o.Events.Failed(", "if err != nil && !unavailable(err) {\n\t\ts.o.Events.Failed(",
			"all NATS servers are stopped or killed", testkit.Patience, `version: a POST of publisher \d is answered with not a version`},
	} {
		t.Run(bug.name, func(t *testing.T) {
			t.Parallel()
			r := newRun(t, plant(t, bug.file, bug.from, bug.to))
			r.patience = bug.wait
			for range harmsOfPlant {
				if !r.well() {
					break
				}
				for _, h := range harms {
					if h.name == bug.harm {
						r.suffer(h)
					}
				}
			}
			r.end()
			said := strings.Join(r.history.found(), "\n")
			if !regexp.MustCompile(bug.says).MatchString(said) {
				t.Errorf("seed %d: the history does not say %q, but:\n%s\n%s", *seed, bug.says, said, r.fleet.logs())
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
