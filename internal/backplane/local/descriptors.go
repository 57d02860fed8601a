package local

import (
	"errors"
	"os"
	"sync"
	"syscall"

	"pubsub/internal/rlimit"
)

const (
	// maxTables is the number of tables that the engine keeps open.
	maxTables = 256
	// otherFiles is the number of descriptors that the store needs in addition to those
	// for tables: logs, the MANIFEST, directories, and the output of a flush and two
	// compactions.
	otherFiles = 32
	// readersLeave is the number of reserved descriptors that a read of a table must leave
	// for writes, because the engine cannot continue without one for its next log.
	readersLeave = 16
)

// descriptors reserves file descriptors of the process, so that the store can open its
// files when connections have taken all others. The open files of the store and the
// reserved descriptors, which are open files of [os.DevNull], always add up to budget.
type descriptors struct {
	budget int // guarded by mu once the store is open; 0 reserves none

	mu sync.Mutex
	// guarded by mu
	open  int // files of the store
	spare []*os.File
}

// newDescriptors reserves the descriptors that the store needs.
func newDescriptors() *descriptors {
	d := &descriptors{budget: maxTables + otherFiles}
	if limit, ok := rlimit.Descriptors(); ok {
		d.budget = int(min(uint64(d.budget), limit/3))
	}
	d.balance()
	return d
}

// tables returns how many tables the engine may keep open.
func (d *descriptors) tables() int {
	if d.budget == 0 {
		return maxTables
	}
	return d.budget - readersLeave
}

// take calls open, which opens one file. If the process has no descriptor left, take
// closes reserved ones and tries again, as long as more than keep are reserved.
func (d *descriptors) take(keep int, open func() error) error {
	for {
		err := open()
		if err == nil {
			d.mu.Lock()
			d.open++
			d.mu.Unlock()
			d.balance()
			return nil
		}
		if !outOfDescriptors(err) || !d.giveUp(keep) {
			return err
		}
	}
}

// giveUp closes a reserved descriptor if there are more than keep. ok reports whether it
// did.
func (d *descriptors) giveUp(keep int) (ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.spare) <= keep {
		return false
	}
	d.closeSpare()
	return true
}

// closed records that a file of the store was closed.
func (d *descriptors) closed() {
	d.mu.Lock()
	d.open--
	d.mu.Unlock()
	d.balance()
}

// balance reserves as many descriptors as the budget leaves, or as the process can open.
func (d *descriptors) balance() {
	d.mu.Lock()
	defer d.mu.Unlock()
	want := max(0, d.budget-d.open)
	for len(d.spare) > want {
		d.closeSpare()
	}
	for len(d.spare) < want {
		f, err := os.Open(os.DevNull)
		if err != nil {
			return
		}
		d.spare = append(d.spare, f)
	}
}

// closeSpare closes a reserved descriptor; mu must be held.
func (d *descriptors) closeSpare() {
	last := len(d.spare) - 1
	d.spare[last].Close()
	d.spare[last] = nil
	d.spare = d.spare[:last]
}

// release closes all reserved descriptors.
func (d *descriptors) release() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.budget = 0
	for len(d.spare) > 0 {
		d.closeSpare()
	}
}

// outOfDescriptors reports whether err says that the process, or the system, has no
// descriptor left.
func outOfDescriptors(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}
