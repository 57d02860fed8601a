//go:build !linux

package park

import (
	"context"
	"errors"
	"net"
	"time"
)

// Lot is not supported on this system.
type Lot struct{}

// New returns [errors.ErrUnsupported].
func New(Options) (*Lot, error) { return nil, errors.ErrUnsupported }

// Run returns at once.
func (*Lot) Run(context.Context) {}

// Park returns [errors.ErrUnsupported].
func (*Lot) Park(*Conn, net.Conn, Handler) ([]byte, error) { return nil, errors.ErrUnsupported }

// Conn is not supported on this system.
type Conn struct{}

// Write returns [errors.ErrUnsupported].
func (*Conn) Write([]byte) (int, error) { return 0, errors.ErrUnsupported }

// Blocked returns false.
func (*Conn) Blocked() bool { return false }

// Read returns [errors.ErrUnsupported].
func (*Conn) Read([]byte) (int, error) { return 0, errors.ErrUnsupported }

// Unacknowledged returns 0, because the number is unknown on this system.
func Unacknowledged(net.Conn) int { return 0 }

// SetUserTimeout does nothing.
func SetUserTimeout(net.Conn, time.Duration) {}

// Unread returns false.
func (*Conn) Unread() bool { return false }

// Unread returns false, because it is unknown on this system.
func Unread(net.Conn) bool { return false }

// Resume does nothing.
func (*Conn) Resume() {}

// Finish does nothing.
func (*Conn) Finish() {}

// Close does nothing.
func (*Conn) Close() error { return nil }
