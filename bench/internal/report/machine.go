//go:build linux

// Package report prints the results of benchmarks: the machine, quantiles, tables.
package report

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Heading prints the day, the machine, and the command line of this program. command is a
// package of this module.
func Heading(command string) {
	fmt.Printf("%s, %s, %d CPUs (%s), %s, kernel %s\n", time.Now().Format(time.DateOnly), runtime.GOOS+"/"+runtime.GOARCH, runtime.NumCPU(), processor(), memory(), kernel())
	fmt.Println(strings.TrimSpace("go run " + command + " " + strings.Join(quoted(os.Args[1:]), " ")))
}

func kernel() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(u.Release[:])
}

// processor returns the model of the first CPU.
func processor() string {
	b, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(b)) {
		if name, model, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(model)
		}
	}
	return "unknown"
}

func memory() string {
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

// quoted returns the arguments, quoted for a shell.
func quoted(args []string) (qs []string) {
	for _, a := range args {
		if strings.ContainsAny(a, " '\"$") {
			a = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
		qs = append(qs, a)
	}
	return qs
}
