//go:build !unix

package app

// descriptorLimit reports that there is no such limit on this system.
func descriptorLimit() (limit uint64, ok bool) { return 0, false }
