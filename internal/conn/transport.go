package conn

import (
	"net"

	"pubsub/internal/park"
)

// Transport carries a connection's bytes to its client. Only one goroutine writes at a
// time. Close may be called by any goroutine, and makes a Write under way fail.
type Transport interface {
	Write(b []byte) (int, error)
	// Finish closes the sending side: nothing more will be written.
	Finish()
	// Unread reports whether the client has sent bytes that have not been read. It
	// returns false if that cannot be determined.
	Unread() bool
	Close() error
}

// NetTransport is a connection that was hijacked from net/http.
type NetTransport struct{ net.Conn }

// Finish closes the sending side. Closing both sides at once could destroy bytes in
// flight to the client (RFC 9112 section 9.6).
func (t NetTransport) Finish() {
	if c, ok := t.Conn.(interface{ CloseWrite() error }); !ok || c.CloseWrite() != nil {
		t.Close()
	}
}

// Unread implements [Transport].
func (t NetTransport) Unread() bool { return park.Unread(t.Conn) }

// Close closes the connection at once, by its method CloseNow if it has one: Close of a
// TLS connection would wait until the client has taken the closing alert.
func (t NetTransport) Close() error {
	if c, ok := t.Conn.(interface{ CloseNow() error }); ok {
		return c.CloseNow()
	}
	return t.Conn.Close()
}
