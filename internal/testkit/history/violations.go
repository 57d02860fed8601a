// Package history is the common part of the checkers of test/soak and test/fault. A checker
// records the events of publishers and subscribers, and finds the promises of the broker that
// were broken. The two differ in their knowledge: a soak knows each message, lost ones too,
// because its publishers always succeed. In a run with faults the outcome of a publish may be
// unknown.
package history

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
)

// Kind is the promise that a violation breaks.
type Kind string

// The promises.
const (
	Content     Kind = "content"     // a message was published, to this topic, and a version belongs to one message
	Order       Kind = "order"       // no message comes after a later one, or twice
	Versions    Kind = "version"     // versions grow, and an id names all versions of its subscriber
	Loss        Kind = "loss"        // no message is lost without notice
	Account     Kind = "account"     // the announced number of lost messages is the number lost
	Convergence Kind = "convergence" // in the end, subscribers have the newest retained messages
	Connection  Kind = "connection"  // connections end only for a reason
	Growth      Kind = "growth"      // a process does not grow, and returns its resources
	Broker      Kind = "broker"      // a process logs no error, counts correctly, becomes ready and does not crash
)

// examples is how many violations of a kind Report prints.
const examples = 5

// Violations are promises that were broken. The zero value is ready to use.
type Violations struct {
	mu    sync.Mutex
	texts map[Kind][]string // guarded by mu
}

// Add adds a violation.
func (v *Violations) Add(kind Kind, format string, args ...any) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.texts == nil {
		v.texts = make(map[Kind][]string)
	}
	v.texts[kind] = append(v.texts[kind], fmt.Sprintf(format, args...))
}

// Any reports whether there is a violation.
func (v *Violations) Any() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.texts) > 0
}

// All returns the violations, by kind.
func (v *Violations) All() map[Kind][]string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return maps.Clone(v.texts)
}

// List returns the violations, each with its kind.
func (v *Violations) List() (list []string) {
	all := v.All()
	for _, kind := range slices.Sorted(maps.Keys(all)) {
		for _, text := range all[kind] {
			list = append(list, string(kind)+": "+text)
		}
	}
	return list
}

// Report writes how many violations of each kind there are, and the first of them.
func (v *Violations) Report(out io.Writer) {
	all := v.All()
	for _, kind := range slices.Sorted(maps.Keys(all)) {
		texts := all[kind]
		fmt.Fprintf(out, "VIOLATIONS of the kind %s: %d\n", kind, len(texts))
		for _, text := range texts[:min(len(texts), examples)] {
			fmt.Fprintf(out, "  %s\n", text)
		}
		if more := len(texts) - examples; more > 0 {
			fmt.Fprintf(out, "  and %d more\n", more)
		}
	}
}
