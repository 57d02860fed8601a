//go:build linux

// Package report says where a benchmark ran and what it gave: the machine,
// quantiles, tables.
package report

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Kernel returns the kernel's release.
func Kernel() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(u.Release[:])
}

// Processor returns the model of the first CPU.
func Processor() string {
	b, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(b)) {
		if name, model, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(model)
		}
	}
	return "unknown"
}

// Memory returns how much memory there is.
func Memory() string {
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil {
		return "unknown memory"
	}
	return fmt.Sprintf("%.0f GiB", float64(info.Totalram)*float64(info.Unit)/(1<<30))
}

// Descriptors returns how many file descriptors a process may have open.
func Descriptors() (int, error) {
	var limit unix.Rlimit
	err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit)
	return int(limit.Cur), err
}

// Quoted returns the arguments as a shell takes them.
func Quoted(args []string) (qs []string) {
	for _, a := range args {
		if strings.ContainsAny(a, " '\"$") {
			a = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
		qs = append(qs, a)
	}
	return qs
}
