//go:build unix

package local

import (
	"math"
	"syscall"
)

// descriptorLimit returns how many descriptors this process may have, 0 if that is
// unknown.
func descriptorLimit() int {
	var r syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &r); err != nil {
		return 0
	}
	return int(min(uint64(r.Cur), math.MaxInt32))
}
