//go:build !linux

package main

import "os"

// terminalMain is for Linux.
func terminalMain() { os.Exit(99) }
