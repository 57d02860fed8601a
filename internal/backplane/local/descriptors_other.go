//go:build !unix

package local

// descriptorLimit returns how many descriptors this process may have, 0 if that is
// unknown.
func descriptorLimit() int { return 0 }
