//go:build !unix

package rlimit

// Descriptors returns ok false: this system has no such limit.
func Descriptors() (limit uint64, ok bool) { return 0, false }
