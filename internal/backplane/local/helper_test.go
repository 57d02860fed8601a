package local

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"testing"
)

// Some tests need a process that is killed or exits. For these the test binary runs itself,
// with the name of a helper in helperEnv and its directory in helperDir.
const (
	helperEnv = "LOCAL_TEST_HELPER"
	helperDir = "LOCAL_TEST_HELPER_DIR"
)

// helpers are the helpers by name. Each registers itself beside its test.
var helpers = map[string]func(dir string) error{}

// runHelper runs a helper and exits.
func runHelper(name string) {
	if err := helpers[name](os.Getenv(helperDir)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	os.Exit(0)
}

// helperCommand returns the command of a helper.
func helperCommand(ctx context.Context, t *testing.T, name, dir string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, self)
	cmd.Env = append(os.Environ(), helperEnv+"="+name, helperDir+"="+dir)
	return cmd
}
