package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"syscall"
)

// Cause is the reason why a server cannot be reached.
type Cause int

const (
	Unknown          Cause = iota
	Refused                // no process listens on the port
	NoRoute                // there is no route to the host
	NoSuchHost             // the host name is unknown
	TimedOut               // no answer arrived in time
	Disconnected           // the connection was closed without an answer
	ProxyFailed            // the proxy of the environment cannot be reached
	UnknownAuthority       // the certificate is signed by an unknown authority
	WrongName              // the certificate is for another host
	OutOfDate              // the certificate has expired, or is not valid yet
	NoTLS                  // https was tried on a port without TLS
	NeedsTLS               // http was tried on a port with TLS
	NoHTTP                 // the port answers, but not in HTTP
)

// Unreachable is the error of a server that cannot be reached.
type Unreachable struct {
	Server string // its address
	Cause  Cause
	Err    error
}

func (e *Unreachable) Error() string { return "cannot reach " + e.Server + ": " + e.Err.Error() }

func (e *Unreachable) Unwrap() error { return e.Err }

// unreachable wraps an error of net/http without the URL that the error repeats.
func (c *Client) unreachable(err error) error {
	if ue := (*url.Error)(nil); errors.As(err, &ue) {
		err = ue.Err
	}
	e := &Unreachable{Server: c.base.String(), Err: err}
	var text string
	if e.Cause, text = cause(err, c.base.Hostname()); text != "" {
		e.Err = &textError{text, err}
	}
	return e
}

// textError is an error with a more readable text.
type textError struct {
	text string
	err  error
}

func (e *textError) Error() string { return e.text }

func (e *textError) Unwrap() error { return e.err }

// cause returns the cause of an error of a connection to host, and a readable text. The
// text is empty if the error's own text is good enough.
func cause(err error, host string) (Cause, string) {
	if c, text := tlsCause(err, host); c != Unknown {
		return c, text
	}
	var op *net.OpError
	var name *net.DNSError
	var timeout net.Error
	switch {
	case errors.As(err, &op) && op.Op == "proxyconnect":
		return ProxyFailed, "the proxy set in the environment failed: " + op.Err.Error()
	case errors.As(err, &name) && name.IsNotFound:
		return NoSuchHost, fmt.Sprintf("the host %q does not exist", oneLine(name.Name))
	case errors.As(err, &name):
		return NoSuchHost, fmt.Sprintf("cannot look up the host %q: %s", oneLine(name.Name), oneLine(name.Err))
	case errors.Is(err, syscall.ECONNREFUSED):
		return Refused, ""
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return NoRoute, ""
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return TimedOut, fmt.Sprintf("timed out: no answer within %s", requestTimeout)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET):
		return Disconnected, "the connection was closed before an answer"
	}
	// net/http has no types for these.
	if text := err.Error(); strings.Contains(text, `malformed HTTP response "\x15\x03`) { // a TLS alert
		return NeedsTLS, "the port speaks TLS (https), not http"
	} else if strings.Contains(text, "malformed HTTP") {
		return NoHTTP, "the port does not speak HTTP"
	}
	return Unknown, ""
}
