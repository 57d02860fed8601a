// Package server turns requests into calls of the domain. It routes, checks credentials and
// limits, publishes, administers, and gives each subscriber's connection to package conn
// with the protocol that it speaks. docs/protocol.md describes the wire.
package server

import (
	"cmp"
	"context"
	"net/http"
	"net/netip"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"pubsub"
	"pubsub/internal/conn"
	"pubsub/internal/hub"
	"pubsub/internal/park"
	"pubsub/internal/session"
	"pubsub/internal/token"
)

// Options are the parts and settings of a [Server]. Backplane, Hub and AdminToken are
// required. A zero limit means no limit, and any other zero value means the default in
// parentheses.
type Options struct {
	Backplane pubsub.Backplane
	// BackplaneMayWait reports whether the backplane is reached over a network, so that even a
	// plain message may wait for it. A publish then fails after 5 s. A publish that waits
	// only for the disk is never given up.
	BackplaneMayWait bool
	Hub              *hub.Hub
	// Lot parks the connections of plain HTTP/1.1. If it is nil, each has goroutines.
	Lot *park.Lot
	// AdminToken is the secret that allows everything. If it is empty, no client is an
	// administrator.
	AdminToken string

	// OpsHosts are the host names that OpsHandler accepts beside IP addresses and localhost.
	OpsHosts []string

	// SSE, HTTPPublish, MQTT and Admin enable their paths.
	SSE, HTTPPublish, MQTT, Admin bool

	// MaxMessageSize is the length of the longest message, in bytes (32,512).
	MaxMessageSize int
	// RequireExp refuses tokens without an exp claim. EnforceExpiry ends a stream or session
	// when its token expires.
	RequireExp, EnforceExpiry bool
	// TrustedProxies are the networks whose X-Forwarded-For and PROXY protocol headers
	// are trusted.
	TrustedProxies []netip.Prefix

	// SSEKeepAlive is the silence after which a stream gets a keep-alive event (25 s), and
	// WSKeepAlive the silence after which a WebSocket gets an empty frame (25 s).
	SSEKeepAlive, WSKeepAlive time.Duration
	// WriteTimeout is how long a client may take no byte before it is closed (30 s).
	WriteTimeout time.Duration
	// LastWords is how long a client has to take all pending bytes, the reason included, and
	// to close its side after the server has ended its connection (5 s).
	LastWords time.Duration
	// HandshakeTimeout is how long a CONNECT, and a header of the PROXY protocol, may take to
	// arrive (10 s).
	HandshakeTimeout time.Duration
	// DrainTimeout is the time over which a drain spreads the ends of streams and sessions
	// (10 s).
	DrainTimeout time.Duration
	// MaxKeepAlive is the longest MQTT keep-alive that a client gets, in seconds; 0 means the
	// one that the client asks for.
	MaxKeepAlive uint16

	// Limits can be changed later by [Server.Reload].
	Limits

	// Events receives the events of the server; any of its functions may be nil.
	Events Events
	// SocketEvents receives the events of connections.
	SocketEvents SocketEvents
	// Now is the clock (time.Now).
	Now func() time.Time
}

// Limits are the settings that may change while a Server runs.
type Limits struct {
	// AllowedOrigins are the origins whose pages may use the broker; if there are none, all
	// may.
	AllowedOrigins []string
	// MaxConnections and MaxConnectionsPerIP bound the streams and sessions of this node. An
	// IPv6 /64 counts as one address. MaxConnectionsPerIP counts the other connections of an
	// address as well.
	MaxConnections, MaxConnectionsPerIP int
	// MaxSockets bounds the connections that [Server.Sockets] counts.
	MaxSockets int
	// PublishRate is how many messages a publisher may publish on this node in a second. Its
	// burst is one second's worth.
	PublishRate float64
}

// Server answers the requests of clients. Its methods may be called concurrently.
type Server struct {
	// immutable
	o        Options
	admin    secret
	verifier token.Verifier
	keys     *keyCache
	rates    *rateLimiter
	registry *conn.Registry
	clients  *clients
	conns    *conn.Limiter // streams and sessions
	pending  *conn.Limiter // WebSockets whose token has not been read yet
	sockets  *Sockets
	sessions session.Options
	events   endpoint  // /events
	began    time.Time // before any time that Options.Now returns

	live atomic.Pointer[live] // replaced as a whole by Reload

	bodies     atomic.Int64 // bytes of memory for request bodies; see readBody
	publishing atomic.Int64 // bytes of MQTT clients' messages that wait for the backplane
	claimClock claimClock
	unhealthy  atomic.Bool // the last request for /readyz found the backplane unavailable
}

// live holds the settings that Reload replaces, in the form in which they are used.
type live struct {
	Limits
	origins map[string]struct{} // AllowedOrigins in lower case; nil means all
}

// New returns a Server. Its Handler can answer at once, but until Run has read the signing
// keys, a request with a token is answered with an error of the server.
func New(o Options) *Server {
	defaults(&o)
	s := &Server{
		o:       o,
		admin:   newSecret(o.AdminToken),
		rates:   newRateLimiter(),
		clients: newClients(),
		conns:   conn.NewLimiter(),
		pending: conn.NewLimiter(),
		began:   o.Now().Add(-1),
		sessions: session.Options{
			MaxMessageSize:   o.MaxMessageSize,
			HandshakeTimeout: o.HandshakeTimeout,
			MaxKeepAlive:     o.MaxKeepAlive,
			NewClientID:      newClientID,
		},
	}
	s.registry = conn.NewRegistry(conn.Options{
		Hub:          o.Hub,
		Lot:          o.Lot,
		WriteTimeout: o.WriteTimeout,
		LastWords:    o.LastWords,
		Began:        s.began,
		Now:          o.Now,
		Connected:    o.Events.Connected,
		Disconnected: o.Events.Disconnected,
		Failed:       o.Events.Failed,
	})
	s.keys = newKeyCache(o.Backplane, s.registry.EndKey)
	s.verifier = token.Verifier{Key: s.keys.value, RequireExp: o.RequireExp, EnforceExpiry: o.EnforceExpiry}
	s.events = s.eventsEndpoint()
	s.sessions.Epoch = s.began
	s.sockets = NewSockets(SocketOptions{
		TrustedProxies:   o.TrustedProxies,
		HandshakeTimeout: o.HandshakeTimeout,
		WriteTimeout:     o.WriteTimeout,
		Events:           o.SocketEvents,
		countOf:          s.countOf,
	})
	s.Reload(o.Limits)
	return s
}

func defaults(o *Options) {
	o.MaxMessageSize = cmp.Or(o.MaxMessageSize, 32512)
	o.SSEKeepAlive = cmp.Or(o.SSEKeepAlive, 25*time.Second)
	o.WSKeepAlive = cmp.Or(o.WSKeepAlive, 25*time.Second)
	o.WriteTimeout = cmp.Or(o.WriteTimeout, 30*time.Second)
	o.LastWords = cmp.Or(o.LastWords, 5*time.Second)
	o.HandshakeTimeout = cmp.Or(o.HandshakeTimeout, 10*time.Second)
	o.DrainTimeout = cmp.Or(o.DrainTimeout, 10*time.Second)
	if o.Now == nil {
		o.Now = time.Now
	}
	o.Events.fill()
}

// Handler returns the handler for the public listener, over HTTP/1.1 and HTTP/2.
func (s *Server) Handler() http.Handler { return s.reportPanics(http.HandlerFunc(s.route)) }

// reportPanics returns a handler that reports the panics of h. net/http then aborts the
// response.
func (s *Server) reportPanics(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			switch v := recover(); v {
			case nil:
				return
			case http.ErrAbortHandler:
			default:
				s.o.Events.Panicked(v, debug.Stack())
			}
			panic(http.ErrAbortHandler)
		}()
		h.ServeHTTP(w, r)
	})
}

// Sockets returns the counter of the connections that the public listener accepts.
func (s *Server) Sockets() *Sockets { return s.sockets }

// Reload replaces the limits by l. Connections that have been admitted stay.
func (s *Server) Reload(l Limits) {
	n := &live{Limits: l}
	if len(l.AllowedOrigins) > 0 {
		n.origins = make(map[string]struct{}, len(l.AllowedOrigins))
		for _, o := range l.AllowedOrigins {
			n.origins[strings.ToLower(o)] = struct{}{}
		}
	}
	s.live.Store(n)
	s.sockets.SetMax(l.MaxSockets)
	s.sockets.setMaxPerIP(l.MaxConnectionsPerIP)
}

// Drain accepts no new streams and sessions, ends the present ones spread over the drain
// timeout, and returns when all have ended; see [conn.Registry.Drain].
func (s *Server) Drain(ctx context.Context) { s.registry.Drain(ctx, s.o.DrainTimeout) }

// Run watches the signing keys and the clock until ctx is done. It then waits for its
// goroutines and returns nil.
func (s *Server) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	wg.Go(func() { s.watchClock(ctx) })
	s.keys.run(ctx, s.o.Events.Failed)
	wg.Wait()
	return nil
}

// The kinds of control messages.
const (
	controlTopics   = "topics"   // gathered: the topics that have subscribers
	controlRevoke   = "revoke"   // broadcast: a key was deleted; the body is its id
	controlTakeOver = "takeover" // broadcast: a client identifier has a new connection
	controlClaims   = "claims"   // gathered: newer claims to the client identifiers in the body
)

// Control handles a control message from a node, this one included. It returns the reply, or
// nil if there is none. It ignores unknown kinds, which may come from a later release.
func (s *Server) Control(c pubsub.ControlMessage) []byte {
	switch c.Kind {
	case controlTopics:
		return s.answerTopics(c.Body)
	case controlRevoke:
		s.keys.revoke(string(c.Body))
	case controlTakeOver:
		s.takeOver(c.Body)
	case controlClaims:
		return s.answerClaims(c.Body)
	}
	return nil
}
