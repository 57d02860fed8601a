//go:build linux

// Soak runs a broker under load for a while and checks it. It starts the broker as a process,
// connects thousands of subscribers that leave, stall and resume, and publishes numbered
// messages to them. It checks that each subscriber receives messages in order, that each lost
// message is announced, that in the end all subscribers have the newest messages, and that the
// broker's process does not grow. It exits with 1 if a check fails.
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

// settings are the flags of a soak.
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
	flag.StringVar(&s.holder, "holder", "auto", "holder of connections: auto or portable")
	flag.DurationVar(&s.duration, "duration", 10*time.Minute, "how long messages are published, 10 s at least")
	flag.IntVar(&s.subscribers, "subscribers", 5000, "subscribers, 200 at least; a process may need twice as many file descriptors")
	flag.Uint64Var(&s.seed, "seed", rand.Uint64(), "seed of everything random")
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
