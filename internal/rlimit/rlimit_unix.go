//go:build unix

package rlimit

import "syscall"

// Descriptors returns how many file descriptors this process may have open. ok reports
// whether the limit is known. The Go runtime has raised the soft limit to the hard one.
func Descriptors() (limit uint64, ok bool) {
	var r syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &r); err != nil || r.Cur == 0 {
		return 0, false
	}
	return uint64(r.Cur), true
}
