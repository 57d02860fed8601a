package nats

import (
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"

	"pubsub/internal/testkit"
)

// The tests that look for lost and reordered messages fail, for the right reason, when a bug is
// planted in the source.
func TestPlantedBugsAreFound(t *testing.T) {
	testkit.SkipUnlessLong(t)
	const missed = `node \d does not find a missed message of topic`
	for _, bug := range []struct {
		name           string
		file, from, to string
		test, message  string // the test that finds the bug, and how it fails
	}{
		{"no gap check", "bus.go",
			"if gap {", "if false && gap {",
			"TestFaults", "fault 1, announcements are lost: " + missed},
		{"no resync", "resync.go",
			"n, err := r.resync(bounded, t.all)", "n, err := 0, bounded.Err()",
			"TestFaults", missed},
		{"no resync after a connection", "resync.go",
			"r.scheduleAfterConnection()", "continue",
			"TestFaults", "a link is cut: " + missed},
		{"an older version is delivered", "interest.go",
			"s == nil || seq <= s.last {", "s == nil || seq == s.last {",
			"TestFaults", `topic "[^"]*": version \S+ after \S+`},
		{"only one resync after a connection", "resync.go",
			"r.client.resyncs.add(task{at: now.Add(r.client.o.settleTime), cause: causeSettled})", "_ = causeSettled",
			"TestResyncAfterSettleTime", "no resync finds the message that was stored after the first"},
	} {
		t.Run(bug.name, func(t *testing.T) {
			t.Parallel()
			binary := buildWithBug(t, bug.file, bug.from, bug.to)
			out, err := exec.CommandContext(testContext(t), binary, "-test.run=^"+bug.test+"$", "-faults=6", "-find=4s",
				"-seed="+strconv.FormatUint(*seed, 10)).CombinedOutput()
			if err == nil {
				t.Fatalf("%s passes, seed %d", bug.test, *seed)
			}
			if !regexp.MustCompile(bug.message).Match(out) {
				t.Errorf("%s fails, seed %d, but not with %q:\n%s", bug.test, *seed, bug.message, out)
			}
		})
	}
}

// buildWithBug returns the binary of this package's tests with a bug planted in a file.
func buildWithBug(t *testing.T, file, from, to string) (binary string) {
	t.Helper()
	binary = filepath.Join(t.TempDir(), "planted.test")
	args := []string{"test", "-c", "-overlay", testkit.Plant(t, file, from, to), "-o", binary}
	if testkit.Race { // so that the dependencies are in the build cache
		args = append(args, "-race")
	}
	if out, err := exec.CommandContext(t.Context(), "go", args...).CombinedOutput(); err != nil {
		t.Fatalf("go test -c: %v\n%s", err, out)
	}
	return binary
}
