// Package app builds a broker node from its settings, starts its parts in order
// and stops them in the opposite one. It is where logs and metrics are made of
// what the parts tell.
package app

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime"
	"sync"
	"time"

	"pubsub"
	"pubsub/internal/config"
	"pubsub/internal/hub"
	"pubsub/internal/park"
	"pubsub/internal/server"
)

// Options are what Run needs beside the settings.
type Options struct {
	// Stdout takes what a program reads: with dev, the token. Stderr takes logs
	// and what a person reads. Run never waits for either: it writes through an
	// [Output], which Stderr may already be.
	Stdout, Stderr io.Writer
	// Version is the release, for metrics.
	Version string
	// Shards is how many of them deliver, and how many goroutines wait for events of
	// parked connections. Default: GOMAXPROCS.
	Shards int
	// Listening, if not nil, is called once clients can connect, with the addresses
	// that were bound; ops is nil if that listener is switched off. It must return
	// soon.
	Listening func(public, ops net.Addr)
	// Reload requests that the settings be read again. ConfigReload reads them, in a
	// goroutine for which Run does not wait when it ends.
	Reload       <-chan struct{}
	ConfigReload func() (*config.Config, error)
}

const (
	// readyTimeout bounds how long the embedded store may take to work after it has
	// been opened.
	readyTimeout = 10 * time.Second
	// clusterWait is how long a node of a cluster waits for NATS before it answers
	// its clients all the same: that it is not ready, or that the backplane is
	// unavailable.
	clusterWait = time.Second
)

// Run serves until ctx is done, then drains and returns nil. Its error says why
// the broker could not start, or why it had to stop; it is a [*config.Problem] or a
// [nats.ErrOptions] if that is a setting.
func Run(ctx context.Context, cfg *config.Config, o Options) error {
	if cfg.Dev {
		cfg = devConfig(cfg)
	}
	n := &node{cfg: cfg, o: o, out: NewOutput(o.Stderr), logLevel: new(slog.LevelVar), metrics: newMetrics(o.Version)}
	defer n.out.Flush()
	n.log = newLogger(n.out, cfg, n.logLevel)
	n.throttle = newThrottle(n.log)
	n.metrics.observeOutput(n.out)

	if err := n.listen(); err != nil {
		return err
	}
	defer n.closeListeners()
	if err := n.openBackplane(ctx); err != nil {
		if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
			return nil // stopped before it had begun
		}
		return err
	}
	defer func() {
		if err := n.backplane.Close(); err != nil {
			n.logFailure("backplane close failed", err)
		}
	}()
	adminToken, err := n.adminToken()
	if err != nil {
		return err
	}
	if err := n.openLot(); err != nil {
		return err
	}
	n.openRings()
	defer n.closeRings()
	n.build(adminToken)
	return n.run(ctx)
}

// node is a broker node that runs.
type node struct {
	// immutable once built
	o         Options
	out       *Output
	log       *slog.Logger
	logLevel  *slog.LevelVar
	throttle  *throttle
	metrics   *metrics
	backplane pubsub.Backplane
	hub       *hub.Hub
	server    *server.Server
	lot       *park.Lot    // nil if connections are not parked
	rings     []*park.Ring // one for each shard of the hub; none if it is not to use them
	public    net.Listener
	ops       net.Listener // nil if it is switched off
	certs     *certificates

	cfg *config.Config // owned by run's goroutine
}

// openLot makes the lot that holds connections, where there can be one.
func (n *node) openLot() error {
	if n.cfg.Holder == "portable" || n.certs != nil {
		return nil // TLS cannot be parked
	}
	lot, err := park.New(park.Options{
		WriteTimeout: n.cfg.WriteTimeout, Pollers: n.o.Shards,
		Opened: func(nc net.Conn) { n.server.Sockets().Parked(nc) },
		Closed: func() { n.server.Sockets().Unparked() },
	})
	switch {
	case errors.Is(err, errors.ErrUnsupported):
		return nil
	case err != nil:
		return fmt.Errorf("cannot park connections: %w: give --holder portable to do without", err)
	}
	n.lot = lot
	return nil
}

// openRings makes what messages are sent through, if that is wanted and can be.
func (n *node) openRings() {
	if n.cfg.IO != "uring" || n.lot == nil {
		return
	}
	for range cmp.Or(n.o.Shards, runtime.GOMAXPROCS(0)) {
		r, err := park.NewRing()
		if err != nil {
			n.log.Warn("io_uring unavailable", "error", err, "consequence", "messages are sent without it",
				"advice", "it needs Linux 5.18, a container whose seccomp profile allows it, and sysctl kernel.io_uring_disabled=0")
			n.closeRings()
			return
		}
		n.rings = append(n.rings, r)
	}
}

func (n *node) closeRings() {
	for _, r := range n.rings {
		r.Close()
	}
	n.rings = nil
}

func (n *node) build(adminToken string) {
	fetchAtOnce := 1
	if n.clustered() {
		fetchAtOnce = 32 // each read is a round trip
	}
	var outboxes []hub.Outbox
	for _, r := range n.rings {
		outboxes = append(outboxes, r)
	}
	n.hub = hub.New(hub.Options{
		Backplane:        n.backplane,
		Shards:           n.o.Shards,
		Outboxes:         outboxes,
		SubscriberBuffer: int(n.cfg.SubscriberBuffer),
		BacklogMemory:    int64(n.cfg.BacklogMemory),
		MaxEncodedSize:   server.MaxEncodedSize,
		FetchConcurrency: fetchAtOnce,
	})
	n.server = server.New(server.Options{
		Backplane:        n.backplane,
		BackplaneMayWait: n.clustered(),
		Hub:              n.hub,
		Lot:              n.lot,
		AdminToken:       adminToken,
		OpsHosts:         n.cfg.OpsHosts,
		SSE:              n.cfg.SSE,
		HTTPPublish:      n.cfg.HTTPPublish,
		MQTT:             n.cfg.MQTT,
		Admin:            n.cfg.Admin,
		MaxMessageSize:   int(n.cfg.MaxMessageSize),
		RequireExp:       n.cfg.RequireExp,
		EnforceExpiry:    n.cfg.EnforceExpiry,
		TrustedProxies:   n.cfg.TrustedProxies,
		SSEKeepAlive:     n.cfg.SSEKeepAlive,
		WSKeepAlive:      n.cfg.WSKeepAlive,
		WriteTimeout:     n.cfg.WriteTimeout,
		HandshakeTimeout: n.cfg.HandshakeTimeout,
		DrainTimeout:     max(n.cfg.DrainTimeout, 1), // 0 would be the default
		MaxKeepAlive:     uint16(n.cfg.MaxKeepAlive),
		Limits:           limitsOf(n.cfg),
		Events:           n.serverEvents(),
		SocketEvents:     n.socketEvents(),
	})
	n.warnOfSockets(n.cfg)
	n.metrics.observeHub(n.hub)
	n.metrics.observeSockets(n.server.Sockets())
}

func limitsOf(cfg *config.Config) server.Limits {
	return server.Limits{
		AllowedOrigins:      cfg.AllowedOrigins,
		MaxConnections:      cfg.MaxConnections,
		MaxConnectionsPerIP: cfg.MaxConnectionsPerIP,
		MaxSockets:          maxSockets(cfg),
		PublishRate:         float64(cfg.PublishRate),
	}
}

// run starts the parts, waits, and stops them in the opposite order.
func (n *node) run(ctx context.Context) error {
	// The parts outlive ctx: they end once the clients are gone.
	parts, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	failed := make(chan error, 8)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop() // before the wait
	start := func(what string, f func() error) {
		wg.Go(func() {
			if err := f(); err != nil {
				failed <- fmt.Errorf("%s: %w", what, err)
			}
		})
	}

	wg.Go(func() { n.hub.Run(parts) })
	wg.Go(func() { returnMemory(parts) })
	if n.lot != nil {
		wg.Go(func() { n.lot.Run(parts) })
	}
	ready := make(chan struct{})
	start("bus", func() error {
		return n.backplane.Run(parts, pubsub.Receiver{
			Ready:   func() { close(ready) },
			Deliver: n.hub.Deliver,
			Control: n.server.Control, Rejoined: n.server.CompareClaims,
		})
	})
	start("server", func() error { return n.server.Run(parts) })
	if err := n.awaitBackplane(ctx, ready, failed); err != nil || ctx.Err() != nil {
		return err
	}

	if n.ops != nil {
		ops, sockets := n.opsServer()
		start("ops listener", func() error { return serve(ops, sockets.Listener(n.ops, nil)) })
		defer ops.Close()
	}
	public := n.httpServer()
	start("listener", func() error { return n.serveHTTP(public) })
	defer public.Close()

	n.tellListening()
	n.log.Info("listening", "address", n.public.Addr().String(), "tls", n.certs != nil, "store", n.storeName(), "version", n.o.Version)
	if n.clustered() {
		wg.Go(func() { n.tellReady(parts, ready) })
	}
	if n.cfg.Dev {
		if err := n.greet(parts); err != nil {
			return err
		}
	}

	err := n.wait(ctx, failed)
	n.log.Info("draining", "timeout", n.cfg.DrainTimeout)
	n.server.Drain(parts)
	// Requests under way are answered, and the lasting connections of those that
	// only publish closed.
	last, cancel := context.WithTimeout(parts, shutdownTimeout)
	defer cancel()
	n.server.Sockets().Drain()
	public.Shutdown(last)
	n.log.Info("stopped")
	return err
}

func (n *node) tellListening() {
	if n.o.Listening == nil {
		return
	}
	var ops net.Addr
	if n.ops != nil {
		ops = n.ops.Addr()
	}
	n.o.Listening(n.public.Addr(), ops)
}

// shutdownTimeout is how long requests that are no streams may take to end.
const shutdownTimeout = 5 * time.Second

// wait returns when the node must stop, with the error that caused it. Until then it
// reloads the settings on request, one reload after the other.
func (n *node) wait(ctx context.Context, failed <-chan error) error {
	var (
		asked = n.o.Reload     // nil while settings are being read
		read  <-chan *reloaded // nil while none are being read
		late  <-chan time.Time
	)
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-failed:
			n.log.Error("stopping", "error", err)
			return err
		case <-asked:
			asked, read, late = nil, n.readSettings(), time.After(reloadTimeout)
			continue
		case r := <-read:
			n.reload(r)
		case <-late:
			n.logFailure("reload failed", fmt.Errorf("reading the settings and the files that they name takes longer than %v", reloadTimeout))
		}
		asked, read, late = n.o.Reload, nil, nil
	}
}

// reloadTimeout bounds how long the settings may take to be read again.
const reloadTimeout = 10 * time.Second

// reloaded are settings that were read while the node was running.
type reloaded struct {
	next    *config.Config
	err     error
	merged  *config.Config   // the settings of the node from now on
	cert    *tls.Certificate // nil without TLS
	certErr error
}

// readSettings reads the settings and the certificate in the background, so that a
// hanging file system delays nothing else.
func (n *node) readSettings() <-chan *reloaded {
	done := make(chan *reloaded, 1)
	cfg := n.cfg
	go func() {
		r := &reloaded{}
		if r.next, r.err = n.o.ConfigReload(); r.err == nil {
			if cfg.Dev {
				r.next = devConfig(r.next)
			}
			r.merged = cfg.WithLive(r.next)
			if n.certs != nil {
				// Load it even if the names are unchanged: the files may have new
				// contents.
				r.cert, r.certErr = r.merged.Certificate()
			}
		}
		done <- r
	}()
	return done
}

// reload takes up the settings that can change while the node runs.
func (n *node) reload(r *reloaded) {
	if r.err != nil {
		n.logFailure("reload failed", r.err)
		return
	}
	switch {
	case r.certErr != nil:
		n.logFailure("certificate reload failed", r.certErr)
	case r.cert != nil:
		n.certs.current.Store(r.cert)
	}
	live, restart := n.cfg.Changes(r.next)
	setLevel(n.logLevel, r.merged.LogLevel)
	n.server.Reload(limitsOf(r.merged))
	n.warnOfSockets(r.merged)
	n.cfg = r.merged
	n.log.Info("settings reloaded", "changed", live)
	if len(restart) > 0 {
		n.log.Warn("changed settings need a restart", "settings", restart)
	}
}
