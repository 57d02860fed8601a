package app

import (
	"bytes"
	"log/slog"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"pubsub/internal/config"
	"pubsub/internal/park"
)

// TestRefusedRings checks that a node logs a warning and works without io_uring if a seccomp
// profile refuses it.
func TestRefusedRings(t *testing.T) {
	var log bytes.Buffer
	n := &node{cfg: config.Default(), lot: new(park.Lot), log: slog.New(slog.NewTextHandler(&log, nil))}
	n.cfg.IO = "uring"
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // without unlocking, so that the thread ends with its filter
		if err := refuse(unix.SYS_IO_URING_SETUP); err != nil {
			t.Error(err)
			return
		}
		n.openRings()
	}()
	<-done
	if got := log.String(); len(n.rings) > 0 || strings.Count(got, "\n") != 1 ||
		!strings.Contains(got, "level=WARN") || !strings.Contains(got, "io_uring_setup: operation not permitted") {
		t.Errorf("%d rings; log: %s", len(n.rings), got)
	}
}

// refuse makes a system call of this thread fail with EPERM from now on.
func refuse(call uint32) error {
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS}, // the number
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: call},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	return unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&prog)), 0, 0)
}
