//go:build !linux

package park

import "errors"

// Ring is not supported on this system.
type Ring struct{}

// NewRing returns [errors.ErrUnsupported].
func NewRing() (*Ring, error) { return nil, errors.ErrUnsupported }

// Write returns [errors.ErrUnsupported].
func (*Ring) Write(*Conn, []byte) (int, error) { return 0, errors.ErrUnsupported }

// Flush does nothing.
func (*Ring) Flush() {}

// Close does nothing.
func (*Ring) Close() {}
