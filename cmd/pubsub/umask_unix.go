//go:build unix

package main

import "syscall"

// restrictUmask sets the umask so that only the owner can read files that this process
// creates from now on, because the data directory contains signing keys.
func restrictUmask() { syscall.Umask(0o077) }
