package nats

import (
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"

	"pubsub/internal/testkit"
)

// The tests that look for lost and reordered messages find them: with a bug planted
// in the source they fail, for this reason. As they are they pass.
func TestPlantedBugsAreFound(t *testing.T) {
	const missed = `node \d does not find what it has missed of topic`
	for _, bug := range []struct {
		name            string
		file, from, to  string // where, and what becomes what
		test, complains string // what finds it, and what it says
	}{
		{"no gap check", "bus.go",
			"if gap {", "if false && gap {",
			"TestFaults", "harm 1, announcements are lost: " + missed},
		{"no sweep", "sweep.go",
			"n, err := s.sweep(bounded)", "n, err := 0, bounded.Err()",
			"TestFaults", missed},
		{"no sweep after a connection", "sweep.go",
			`why = "connected"`, "continue",
			"TestFaults", "a link is cut: " + missed},
		{"an older version is applied", "interest.go",
			"one == nil || seq <= one.last {", "one == nil || seq == one.last {",
			"TestFaults", `topic "[^"]*": version \S+ after \S+`},
		{"no second look", "sweep.go",
			"second.Reset(lookAgainAfter)", "_ = lookAgainAfter",
			"TestSecondLookAfterConnection", "the second look does not find what is between it and the first"},
	} {
		t.Run(bug.name, func(t *testing.T) {
			t.Parallel()
			binary := plant(t, bug.file, bug.from, bug.to)
			out, err := exec.CommandContext(ctxFor(t), binary, "-test.run=^"+bug.test+"$", "-faults=6", "-find=4s",
				"-seed="+strconv.FormatUint(*seed, 10)).CombinedOutput()
			if err == nil {
				t.Fatalf("%s passes, seed %d", bug.test, *seed)
			}
			if !regexp.MustCompile(bug.complains).Match(out) {
				t.Errorf("%s fails, seed %d, but not with %q:\n%s", bug.test, *seed, bug.complains, out)
			}
		})
	}
}

// plant returns the binary of this package's tests with a bug planted in a file.
func plant(t *testing.T, file, from, to string) (binary string) {
	t.Helper()
	binary = filepath.Join(t.TempDir(), "planted.test")
	args := []string{"test", "-c", "-overlay", testkit.Plant(t, file, from, to), "-o", binary}
	if testkit.Race { // as all that it is linked with was built for this test
		args = append(args, "-race")
	}
	if out, err := exec.CommandContext(t.Context(), "go", args...).CombinedOutput(); err != nil {
		t.Fatalf("go test -c: %v\n%s", err, out)
	}
	return binary
}
