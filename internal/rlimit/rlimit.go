// Package rlimit reads the limits that the operating system sets on this process.
package rlimit
