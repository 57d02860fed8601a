//go:build unix

package app

import "syscall"

// descriptorLimit returns how many descriptors the process may have open. The runtime
// has raised the soft limit to the hard one.
func descriptorLimit() (limit uint64, ok bool) {
	var r syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &r); err != nil || r.Cur == 0 {
		return 0, false
	}
	return uint64(r.Cur), true
}
