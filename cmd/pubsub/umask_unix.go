//go:build unix

package main

import "syscall"

// restrictUmask makes what this process creates from now on readable by its owner only,
// whatever umask it was started with: the data directory holds signing keys.
func restrictUmask() { syscall.Umask(0o077) }
