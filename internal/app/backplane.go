package app

import (
	"context"
	"fmt"
	"strings"
	"time"

	"pubsub/internal/backplane/local"
	"pubsub/internal/backplane/nats"
	"pubsub/internal/config"
)

// openBackplane opens the embedded store of a single node, or starts to connect a node of a
// cluster to NATS.
func (n *node) openBackplane(ctx context.Context) error {
	if n.clustered() {
		return n.openNATS()
	}
	return n.openLocal(ctx)
}

// clustered reports whether the node belongs to a cluster.
func (n *node) clustered() bool { return len(n.cfg.NATS) > 0 }

func (n *node) openLocal(ctx context.Context) error {
	b, err := openLocal(ctx, local.Options{
		Dir:         string(n.cfg.DataDir),
		InMemory:    n.cfg.InMemory,
		DiskReserve: diskReserve(n.cfg),
		Events:      n.storeEvents(),
	})
	if err != nil {
		return fmt.Errorf("cannot open the store: %w", err)
	}
	n.backplane = b
	n.metrics.observeLocal(b)
	return nil
}

// diskReserve returns the reserve for the store, which takes 0 for its default.
func diskReserve(cfg *config.Config) int64 { return max(1, int64(cfg.DiskReserve)) }

func (n *node) openNATS() error {
	for _, name := range []string{"data-dir", "disk-reserve"} {
		if n.cfg.Given(name) {
			n.log.Warn("setting ignored", "setting", name, "reason", "a cluster keeps everything in NATS")
		}
	}
	o := NATSOptions(n.cfg)
	o.Events = n.natsEvents()
	b, err := nats.Open(o)
	if err != nil {
		return err
	}
	n.backplane = b
	n.metrics.observeNATS(b)
	return nil
}

// NATSOptions returns the options of the NATS backplane, without Events.
func NATSOptions(cfg *config.Config) nats.Options {
	return nats.Options{
		URLs:           cfg.NATS,
		CredsFile:      string(cfg.NATSCreds),
		NKeyFile:       string(cfg.NATSNKey),
		User:           string(cfg.NATSUser),
		Password:       string(cfg.NATSPassword),
		Token:          string(cfg.NATSToken),
		CertFile:       string(cfg.NATSCert),
		KeyFile:        string(cfg.NATSKey),
		CAFile:         string(cfg.NATSCA),
		Prefix:         string(cfg.NATSPrefix),
		Replicas:       int(cfg.NATSReplicas),
		MaxMessageSize: int(cfg.MaxMessageSize),
		SyncInterval:   cfg.NATSSyncInterval,
	}
}

// awaitBackplane waits until the backplane is ready. In a cluster it waits for clusterWait at
// most.
func (n *node) awaitBackplane(ctx context.Context, ready <-chan struct{}, failed <-chan error) error {
	wait := readyTimeout
	if n.clustered() {
		wait = clusterWait
	}
	late := time.NewTimer(wait)
	defer late.Stop()
	select {
	case <-ready:
	case err := <-failed:
		return err
	case <-late.C:
		if !n.clustered() {
			return fmt.Errorf("the store was not ready within %v", readyTimeout)
		}
	case <-ctx.Done():
	}
	return nil
}

// logReady logs when the backplane is ready.
func (n *node) logReady(ctx context.Context, ready <-chan struct{}) {
	select {
	case <-ready:
		n.log.Info("cluster ready")
	case <-ctx.Done():
	}
}

// storeName returns the place of retained messages for the log.
func (n *node) storeName() string {
	switch {
	case n.clustered():
		return strings.Join(n.cfg.NATS, ",")
	case n.cfg.InMemory:
		return "memory"
	}
	return string(n.cfg.DataDir)
}
