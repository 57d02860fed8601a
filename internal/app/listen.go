package app

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"syscall"
	"time"

	"pubsub/internal/server"
)

const (
	// maxHeaderBytes limits the headers of a request. An id of ten long topics takes 31 KB.
	maxHeaderBytes = 64 << 10
	// pingAfter is how long an HTTP/2 connection may be silent before the server sends a
	// ping.
	pingAfter = 30 * time.Second
	// http2Unread limits the unread bytes of an HTTP/2 client on all its streams together.
	// It has room for several messages and is little more than the protocol's minimum.
	http2Unread = 128 << 10
)

// listen opens the listeners. It comes first, so that a second process on the same ports ends
// before it touches the store.
func (n *node) listen() error {
	cert, err := n.cfg.Certificate()
	if err != nil {
		return err
	}
	if cert != nil {
		n.certs = &certificates{}
		n.certs.current.Store(cert)
	}
	if n.public, err = listenOn("listen", string(n.cfg.Listen)); err != nil {
		return err
	}
	if n.cfg.OpsListen == "" {
		return nil
	}
	if n.ops, err = listenOn("ops-listen", string(n.cfg.OpsListen)); err != nil {
		n.closeListeners()
		return err
	}
	return nil
}

func listenOn(setting, address string) (net.Listener, error) {
	// TCP keep-alive probes are off: streams and sessions have keep-alives of their own, and
	// other idle connections are closed. So a million sockets need no second timer each, and
	// accepting one takes four system calls less.
	ln, err := (&net.ListenConfig{KeepAlive: -1}).Listen(context.Background(), "tcp", address)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("%s: the port of %s is in use: stop the process that listens there, or choose another port with --%s", setting, address, setting)
	case errors.Is(err, syscall.EACCES):
		return nil, fmt.Errorf("%s: no permission to listen on %s: choose a port above 1023 with --%s, or grant the permission to bind the port", setting, address, setting)
	case err != nil:
		if oe := (*net.OpError)(nil); errors.As(err, &oe) {
			err = oe.Err // without the address again
		}
		return nil, fmt.Errorf("%s: cannot listen on %s: %w: choose an address of this machine with --%s", setting, address, err, setting)
	}
	return ln, nil
}

func (n *node) closeListeners() {
	n.public.Close()
	if n.ops != nil {
		n.ops.Close()
	}
}

// serveHTTP serves clients until s is shut down.
func (n *node) serveHTTP(s *http.Server) error {
	var config *tls.Config
	if n.certs != nil {
		config = &tls.Config{
			MinVersion:     tls.VersionTLS12,
			NextProtos:     []string{"h2", "http/1.1"},
			GetCertificate: n.certs.get,
		}
	}
	return serve(s, n.server.Sockets().Listener(n.public, config))
}

func (n *node) httpServer() *http.Server {
	s := &http.Server{
		Handler:           n.server.Handler(),
		ReadHeaderTimeout: n.cfg.HandshakeTimeout,
		IdleTimeout:       n.cfg.IdleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		HTTP2: &http.HTTP2Config{
			SendPingTimeout:               pingAfter,
			MaxReceiveBufferPerConnection: http2Unread,
			MaxReceiveBufferPerStream:     http2Unread,
		},
		Protocols:   new(http.Protocols),
		ErrorLog:    n.httpLog(),
		ConnState:   n.server.Sockets().ConnState,
		ConnContext: n.server.Sockets().ConnContext,
	}
	s.Protocols.SetHTTP1(true)
	if n.certs == nil {
		s.MaxHeaderBytes -= 4096 // net/http adds these, to HTTP/1.1 only
		return s
	}
	// TLS ends below net/http, so net/http receives the HTTP/2 preface unencrypted.
	s.Protocols.SetUnencryptedHTTP2(true)
	return s
}

// opsServer returns the server of the ops listener, and its connections.
func (n *node) opsServer() (*http.Server, *server.Sockets) {
	sockets := server.NewSockets(server.SocketOptions{
		Max:          maxOpsSockets(),
		WriteTimeout: n.cfg.WriteTimeout,
		Events:       server.SocketEvents{AcceptFailed: n.acceptFailed},
	})
	return &http.Server{
		Handler:           n.server.OpsHandler(n.metrics.handler()),
		ReadHeaderTimeout: n.cfg.HandshakeTimeout,
		IdleTimeout:       n.cfg.IdleTimeout,
		ErrorLog:          n.httpLog(),
		ConnState:         sockets.ConnState,
	}, sockets
}

// httpLog returns the log for net/http, whose lines are about mistakes of clients. Errors of
// accept and panics of handlers do not reach net/http.
func (n *node) httpLog() *log.Logger { return slog.NewLogLogger(n.log.Handler(), slog.LevelDebug) }

// serve is s.Serve, but returns nil after a shutdown.
func serve(s *http.Server, ln net.Listener) error {
	if err := s.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// certificates holds the certificate for new connections.
type certificates struct {
	current atomic.Pointer[tls.Certificate]
}

func (c *certificates) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return c.current.Load(), nil
}

// localURL returns the URL of the node for clients on this machine.
func (n *node) localURL() string {
	host, port, err := net.SplitHostPort(n.public.Addr().String())
	if err != nil {
		return n.public.Addr().String()
	}
	if ip := net.ParseIP(host); ip == nil || ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	scheme := "http"
	if n.certs != nil {
		scheme = "https"
	}
	return scheme + "://" + net.JoinHostPort(host, port)
}

// bounded returns a context for one call of the backplane during the start.
func bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, readyTimeout)
}
