//go:build linux

// Soak lets a broker work for a while and checks what it does. It starts one from
// a binary on disk, connects thousands of subscribers that come, go, stall and
// resume, publishes numbered messages to them, and checks of each subscriber that
// nothing came out of order, that nothing was lost without being accounted for,
// and that it had the newest of everything in the end; and of the broker's process
// that it does not grow. It exits with 1 if anything was wrong.
//
//	go run ./test/soak -duration 10m -subscribers 5000
package main

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"time"
)

// settings are what a soak is.
type settings struct {
	binary      string // of the broker; empty builds it
	race        bool   // build it with the race detector
	holder      string
	duration    time.Duration
	subscribers int
	seed        uint64
}

func main() {
	var s settings
	flag.StringVar(&s.binary, "binary", "", "the broker's binary; built from this tree if empty")
	flag.BoolVar(&s.race, "race", false, "build it with the race detector")
	flag.StringVar(&s.holder, "holder", "auto", "who holds connections: auto or portable")
	flag.DurationVar(&s.duration, "duration", 10*time.Minute, "how long messages are published, 10 s at least")
	flag.IntVar(&s.subscribers, "subscribers", 5000, "subscribers, 200 at least; a process may need twice that many file descriptors")
	flag.Uint64Var(&s.seed, "seed", rand.Uint64(), "of everything random")
	flag.Parse()
	if s.duration < 10*time.Second || s.subscribers < 200 || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	ok, err := soak(s, os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(1)
	}
	if !ok {
		os.Exit(1)
	}
}
