package park

import (
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// takeBuffered returns the bytes that a wrapper of nc, such as that of the PROXY protocol,
// has read ahead.
func takeBuffered(nc net.Conn) (early []byte, err error) {
	if w, ok := nc.(interface{ NetConn() net.Conn }); ok {
		nc = w.NetConn()
	}
	if _, plain := nc.(*net.TCPConn); plain {
		return nil, nil
	}
	if err := nc.SetReadDeadline(time.Unix(1, 0)); err != nil {
		return nil, err
	}
	b := make([]byte, 4096)
	for {
		n, err := nc.Read(b)
		early = append(early, b[:n]...)
		if err != nil || len(early) > 1<<20 {
			return early, nil // the deadline, or an end that the next read reports again
		}
	}
}

// duplicate returns a new descriptor for the TCP connection in nc.
func duplicate(nc net.Conn) (fd int, err error) {
	raw, err := rawConn(nc)
	if err != nil {
		return -1, err
	}
	ctlErr := raw.Control(func(orig uintptr) { fd, err = unix.FcntlInt(orig, unix.F_DUPFD_CLOEXEC, 0) })
	if err := errors.Join(ctlErr, err); err != nil {
		return -1, fmt.Errorf("park: %w", err)
	}
	return fd, nil
}

// rawConn returns access to the descriptor of the TCP connection in nc.
func rawConn(nc net.Conn) (syscall.RawConn, error) {
	for {
		switch c := nc.(type) {
		case interface{ Raw() net.Conn }:
			nc = c.Raw()
		case interface{ NetConn() net.Conn }:
			nc = c.NetConn()
		case syscall.Conn:
			return c.SyscallConn()
		default:
			return nil, fmt.Errorf("park: %T has no descriptor", nc)
		}
	}
}

// Unread reports whether the kernel holds unread bytes of the TCP connection in nc.
func Unread(nc net.Conn) (unread bool) {
	if raw, err := rawConn(nc); err == nil {
		raw.Control(func(fd uintptr) { unread = hasUnread(int(fd)) })
	}
	return unread
}

func hasUnread(fd int) bool {
	n, err := unix.IoctlGetInt(fd, unix.SIOCINQ)
	return err == nil && n > 0
}

// sendBuffer bounds the bytes that the kernel keeps for a peer that does not read; the
// kernel doubles the number for its own bookkeeping. It also limits a connection over a
// long fat network to that many bytes in a round trip, which is plenty for live state.
const sendBuffer = 128 << 10

// tune sets socket options. It ignores errors, because a socket works without them.
func tune(fd int, o *Options) {
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, sendBuffer)
	setUserTimeout(fd, o.WriteTimeout)
}

// setUserTimeout makes the kernel give up a peer that has vanished (RFC 5482).
func setUserTimeout(fd int, d time.Duration) {
	unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(d/time.Millisecond))
}

// SetUserTimeout makes the kernel give up the TCP connection in nc once its peer has
// acknowledged no bytes for d while some were waiting (RFC 5482). 0 restores the kernel's
// default of many minutes.
func SetUserTimeout(nc net.Conn, d time.Duration) {
	if raw, err := rawConn(nc); err == nil {
		raw.Control(func(fd uintptr) { setUserTimeout(int(fd), d) })
	}
}

func unacknowledged(fd int) int {
	n, err := unix.IoctlGetInt(fd, unix.SIOCOUTQ)
	if err != nil {
		return 0 // not a TCP socket
	}
	return n
}

// Unacknowledged returns the number of bytes written to the TCP connection in nc that its
// peer has not acknowledged, or 0 if that is unknown.
func Unacknowledged(nc net.Conn) (n int) {
	if raw, err := rawConn(nc); err == nil {
		raw.Control(func(fd uintptr) { n = unacknowledged(int(fd)) })
	}
	return n
}
