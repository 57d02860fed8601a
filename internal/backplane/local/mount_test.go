package local

import (
	"os/exec"
	"testing"
)

// mount mounts a file system on dir for the duration of the test. It reports whether this
// user can.
func mount(t *testing.T, dir string, args ...string) bool {
	t.Helper()
	if !remount(t, dir, args...) {
		return false
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount %s: %v: %s", dir, err, out)
		}
	})
	return true
}

// remount runs mount on dir. It reports whether mount succeeded.
func remount(t *testing.T, dir string, args ...string) bool {
	t.Helper()
	if out, err := exec.Command("mount", append(args, dir)...).CombinedOutput(); err != nil {
		t.Logf("mount %q %s: %v: %s", args, dir, err, out)
		return false
	}
	return true
}
