//go:build unix

package main

import "syscall"

// restrictUmask makes all files that this process creates from now on readable by their
// owner only, whatever the original umask, because the data directory contains signing
// keys.
func restrictUmask() { syscall.Umask(0o077) }
