//go:build !linux

package main

import "os"

// terminalMain exits: it exists only on Linux.
func terminalMain() { os.Exit(99) }
