//go:build linux

package main

import (
	"fmt"
	"io"
	"sync"
)

// faultKind is what a promise that was broken is about.
type faultKind string

const (
	faultContent     faultKind = "content"     // a message that is not what was published, or not for this subscriber
	faultOrder       faultKind = "order"       // a message after a later one, or twice
	faultVersion     faultKind = "version"     // an id that steps back, forgets a topic, or names another message
	faultLoss        faultKind = "loss"        // a message that never came, and nothing said so
	faultAccount     faultKind = "account"     // a number of lost messages that is not the number lost
	faultConvergence faultKind = "convergence" // a subscriber without the newest of a topic
	faultConnection  faultKind = "connection"  // a connection that failed or ended without reason
	faultGrowth      faultKind = "growth"      // a process that takes more and more, or does not give back
	faultBroker      faultKind = "broker"      // an error in the log, a number that is not true, a bad end
)

var faultKinds = []faultKind{faultContent, faultOrder, faultVersion, faultLoss, faultAccount, faultConvergence, faultConnection, faultGrowth, faultBroker}

// examples is how many faults of a kind are told in words.
const examples = 5

// faults is what was found wrong.
type faults struct {
	mu sync.Mutex
	// guarded by mu
	counts map[faultKind]int
	texts  map[faultKind][]string // the first of each
}

func newFaults() *faults {
	return &faults{counts: make(map[faultKind]int), texts: make(map[faultKind][]string)}
}

func (f *faults) add(kind faultKind, format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.counts[kind]++; f.counts[kind] <= examples {
		f.texts[kind] = append(f.texts[kind], fmt.Sprintf(format, args...))
	}
}

// any reports whether anything is wrong.
func (f *faults) any() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.counts) > 0
}

func (f *faults) report(out io.Writer) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, kind := range faultKinds {
		if f.counts[kind] == 0 {
			continue
		}
		fmt.Fprintf(out, "FAULTS of the kind %s: %d\n", kind, f.counts[kind])
		for _, text := range f.texts[kind] {
			fmt.Fprintf(out, "  %s\n", text)
		}
		if more := f.counts[kind] - len(f.texts[kind]); more > 0 {
			fmt.Fprintf(out, "  and %d more\n", more)
		}
	}
}
