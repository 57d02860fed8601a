package testkit

import "net"

// PipeListener is a listener whose connections are in memory, for tests in a synctest
// bubble.
type PipeListener struct {
	// Errs holds errors for Accept to return before the next connection.
	Errs chan error

	conns  chan net.Conn
	closed chan struct{}
}

// NewPipeListener returns a listener that has room for ten errors.
func NewPipeListener() *PipeListener {
	return &PipeListener{Errs: make(chan error, 10), conns: make(chan net.Conn), closed: make(chan struct{})}
}

// Accept waits for a connection, as one of TCP.
func (l *PipeListener) Accept() (net.Conn, error) {
	select {
	case err := <-l.Errs:
		return nil, &net.OpError{Op: "accept", Net: "tcp", Err: err}
	default:
	}
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close ends Accept. It must be called once.
func (l *PipeListener) Close() error { close(l.closed); return nil }

// Addr returns a TCP address.
func (l *PipeListener) Addr() net.Addr { return &net.TCPAddr{} }

// Dial returns the client's end of a connection that Accept returns.
func (l *PipeListener) Dial() net.Conn {
	client, server := net.Pipe()
	l.Connect(server)
	return client
}

// Connect makes Accept return c, and waits until it has.
func (l *PipeListener) Connect(c net.Conn) { l.conns <- c }
