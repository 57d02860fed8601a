//go:build linux

// Package attack_test floods a broker with connections of attackers while publishers
// publish retained messages, and kills it, again and again on one data directory. The
// broker is a process of the real binary that may open few descriptors. It must never
// end by itself, and must lose no message that it has acknowledged.
//
//	go test ./test/attack -v -run TestAttack -attack.rounds 100
package attack_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"syscall"
	"testing"

	"go.uber.org/goleak"
)

var (
	seed   = flag.Uint64("seed", rand.Uint64(), "seed of everything random in this run")
	rounds = flag.Int("attack.rounds", 4, "how often TestAttack kills the broker")
)

// execWithin names the environment variable that makes the test binary execute the
// program of its arguments, with as many descriptors as the variable says.
const execWithin = "ATTACK_EXEC_WITHIN"

func TestMain(m *testing.M) {
	if limit := os.Getenv(execWithin); limit != "" {
		fmt.Fprintln(os.Stderr, become(limit, os.Args[1:]))
		os.Exit(1)
	}
	flag.Parse()
	fmt.Fprintf(os.Stderr, "seed %d (repeat with -seed)\n", *seed)
	goleak.VerifyTestMain(m)
}

// become executes args in place of this process. It returns only if that fails.
func become(limit string, args []string) error {
	n, err := strconv.ParseUint(limit, 10, 64)
	if err != nil {
		return err
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: n, Max: n}); err != nil {
		return err
	}
	os.Unsetenv(execWithin)
	return syscall.Exec(args[0], args, os.Environ())
}
