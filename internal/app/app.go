// Package app builds a broker node from its settings, starts its parts in order and stops
// them in reverse order. It turns the events of the parts into log lines and metrics.
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

// Options are the arguments of [Run] besides the settings.
type Options struct {
	// Stdout receives output for programs: with dev, the token. Stderr receives the log and
	// output for people. Run never waits for either, because it writes through an [Output],
	// which Stderr may already be.
	Stdout, Stderr io.Writer
	// Log writes to Stderr. Default: NewLogger.
	Log *Logger
	// Version is the release, for the log and the metrics.
	Version string
	// Shards is the number of shards that deliver messages, and of goroutines that wait for
	// events of parked connections. Default: GOMAXPROCS.
	Shards int
	// Listening, if not nil, is called when clients can connect, with the bound addresses.
	// ops is nil if that listener is switched off. Listening must not block.
	Listening func(public, ops net.Addr)
	// Reload requests a reload of the settings. ConfigReload reads them, in a goroutine for
	// which Run does not wait when it returns.
	Reload       <-chan struct{}
	ConfigReload func() (*config.Config, error)
}

const (
	// readyTimeout is the time limit for the embedded store to get ready after it is
	// opened.
	readyTimeout = 10 * time.Second
	// clusterWait is how long a node of a cluster waits for NATS before it serves clients
	// anyway, with answers that the backplane is unavailable.
	clusterWait = time.Second
)

// Run serves until ctx is done, then drains and returns nil. Its error is the reason why the
// broker could not start or had to stop: a [*config.Problem] or [nats.ErrOptions] if it is a
// setting.
func Run(ctx context.Context, cfg *config.Config, o Options) error {
	if cfg.Dev {
		cfg = devConfig(cfg)
	}
	n := &node{cfg: cfg, o: o, out: NewOutput(o.Stderr), metrics: newMetrics(o.Version)}
	defer n.out.Flush()
	log := o.Log
	if log == nil {
		log = NewLogger(n.out, cfg)
	}
	n.log, n.logLevel = log.Logger, log.level
	n.throttle = newThrottle(n.log)
	n.metrics.observeOutput(n.out)

	if err := n.requireAdminToken(); err != nil {
		return err
	}
	if err := n.listen(); err != nil {
		return err
	}
	defer n.closeListeners()
	if err := n.openBackplane(ctx); err != nil {
		if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
			return nil // stopped during the start
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

// node is a running broker node.
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
	rings     []*park.Ring // one for each shard of the hub; empty without io_uring
	public    net.Listener
	ops       net.Listener  // nil if it is switched off
	certs     *certificates // nil without TLS

	cfg *config.Config // owned by run's goroutine
}

// openLot creates the lot that holds parked connections, if the settings and the system
// permit it.
func (n *node) openLot() error {
	if n.cfg.Holder == "portable" || n.certs != nil {
		return nil // TLS connections cannot be parked
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
		return fmt.Errorf("cannot park connections: %w; --holder portable does without", err)
	}
	n.lot = lot
	return nil
}

// openRings creates the rings through which the shards send messages, if the settings and the
// kernel permit it.
func (n *node) openRings() {
	if n.cfg.IO != "uring" || n.lot == nil {
		return
	}
	for range cmp.Or(n.o.Shards, runtime.GOMAXPROCS(0)) {
		r, err := park.NewRing()
		if err != nil {
			n.log.Warn("io_uring unavailable", "error", err, "consequence", "messages are sent by epoll",
				"advice", "use Linux 5.18 or later, allow io_uring in the seccomp profile of the container, and set sysctl kernel.io_uring_disabled=0")
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
		FetchFailed:      func(err error) { n.failed("retained message read failed", err) },
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
	n.checkDescriptors(n.cfg)
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

// run starts the parts, waits, and stops them in reverse order.
func (n *node) run(ctx context.Context) error {
	// The parts outlive ctx: they end when the clients are gone.
	parts, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	failed := make(chan error, 8)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop() // before the wait
	start := func(part string, f func() error) {
		wg.Go(func() {
			if err := f(); err != nil {
				failed <- fmt.Errorf("%s: %w", part, err)
			}
		})
	}

	wg.Go(func() { n.hub.Run(parts) })
	wg.Go(func() { trimHeap(parts) })
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

	n.reportListening()
	if n.clustered() {
		wg.Go(func() { n.logReady(parts, ready) })
	}
	if n.cfg.Dev {
		if err := n.greet(parts); err != nil {
			return err
		}
	}

	err := n.wait(ctx, failed)
	n.log.Info("draining", "timeout", n.cfg.DrainTimeout)
	n.server.Drain(parts)
	// Pending requests are answered, and the kept-alive connections of publishers closed.
	last, cancel := context.WithTimeout(parts, shutdownTimeout)
	defer cancel()
	n.server.Sockets().Drain()
	public.Shutdown(last)
	n.log.Info("stopped")
	return err
}

// reportListening logs the addresses of the node and passes them to Options.Listening.
func (n *node) reportListening() {
	var ops net.Addr
	opsName := "off"
	if n.ops != nil {
		ops = n.ops.Addr()
		opsName = ops.String()
	}
	if n.o.Listening != nil {
		n.o.Listening(n.public.Addr(), ops)
	}
	n.log.Info("listening", "address", n.public.Addr().String(), "tls", n.certs != nil, "ops_address", opsName,
		"store", n.storeName(), "version", n.o.Version)
}

// shutdownTimeout is the time limit for pending requests other than streams at shutdown.
const shutdownTimeout = 5 * time.Second

// wait returns when the node must stop, with the error that is the reason. Until then it
// reloads the settings on request, one reload after another.
func (n *node) wait(ctx context.Context, failed <-chan error) error {
	var (
		requests = n.o.Reload     // nil while settings are being read
		read     <-chan *reloaded // nil while no settings are being read
		late     <-chan time.Time
	)
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-failed:
			n.log.Error("node failed", "error", err)
			return err
		case <-requests:
			requests, read, late = nil, n.readSettings(), time.After(reloadTimeout)
			continue
		case r := <-read:
			n.reload(r)
		case <-late:
			n.logFailure("reload failed", fmt.Errorf("reading the settings and their files takes longer than %v", reloadTimeout))
		}
		requests, read, late = n.o.Reload, nil, nil
	}
}

// reloadTimeout is the time limit for a reload to read the settings and their files.
const reloadTimeout = 10 * time.Second

// reloaded is the result of reading the settings while the node runs.
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
				// Even with the same names, the files may have new contents.
				r.cert, r.certErr = r.merged.Certificate()
			}
		}
		done <- r
	}()
	return done
}

// reload applies the settings that can change while the node runs.
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
	n.checkDescriptors(r.merged)
	n.cfg = r.merged
	n.log.Info("settings reloaded", "changed", live)
	if len(restart) > 0 {
		n.log.Warn("restart needed for changed settings", "settings", restart)
	}
}
