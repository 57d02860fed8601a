//go:build linux

package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"pubsub/bench/internal/report"
)

// Memory that a cluster needs, in bytes, with some to spare.
const (
	perNode       = 128 << 20 // the processes of a node and of its subscribers
	perSubscriber = 16 << 10  // both ends of a connection in the kernel, in the node, and in the load
)

// spareDescriptors is how many file descriptors a process has for other purposes.
const spareDescriptors = 500

// fit returns how many subscribers a node may have on this machine, and the reason if they are
// fewer than requested.
func (o *options) fit() (subscribers int, why string, err error) {
	descriptors, err := report.Descriptors()
	if err != nil {
		return 0, "", err
	}
	available, err := memInfo("MemAvailable")
	if err != nil {
		return 0, "", err
	}
	subscribers, why = fits(o.nodes, o.subscribers, descriptors, available)
	if subscribers < 1 {
		return 0, "", fmt.Errorf("this machine cannot hold a single subscriber: %s", why)
	}
	return subscribers, why, nil
}

// fits is fit for a machine with descriptors for a process and bytes of
// available memory, of which a fifth stays free.
func fits(nodes, subscribers, descriptors int, available float64) (n int, why string) {
	n = subscribers
	if most := descriptors - spareDescriptors; n > most {
		n, why = most, fmt.Sprintf("a process may have only %d file descriptors: raise ulimit -n", descriptors)
	}
	if most := int((available*0.8/float64(nodes) - perNode) / perSubscriber); n > most {
		n, why = most, fmt.Sprintf("only %.1f GiB of memory are available", available/(1<<30))
	}
	return n, why
}

// memInfo returns a value of /proc/meminfo in bytes.
func memInfo(name string) (float64, error) {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			kib, err := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")), 64)
			return kib * 1024, err
		}
	}
	return 0, fmt.Errorf("no %s in /proc/meminfo", name)
}
