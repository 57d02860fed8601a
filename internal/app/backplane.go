package app

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"pubsub/internal/backplane/local"
	"pubsub/internal/backplane/nats"
	"pubsub/internal/config"
)

// openBackplane opens the store of a node alone, or begins to connect to that of a
// cluster.
func (n *node) openBackplane(ctx context.Context) error {
	if n.clustered() {
		return n.openNATS()
	}
	return n.openLocal(ctx)
}

// clustered reports whether the node is one of a cluster.
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

// diskReserve is in the store's terms, where 0 is its default.
func diskReserve(cfg *config.Config) int64 { return max(1, int64(cfg.DiskReserve)) }

func (n *node) openNATS() error {
	for _, name := range []string{"data-dir", "disk-reserve"} {
		if n.cfg.Given(name) {
			n.log.Warn("setting ignored", "setting", name, "cause", "a cluster keeps everything in NATS")
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

// NATSOptions returns what the settings say of NATS.
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

// awaitBackplane returns when the backplane works, or, in a cluster, when it does
// not soon.
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
			return errors.New("the backplane does not get ready")
		}
	case <-ctx.Done():
	}
	return nil
}

// tellReady logs that the cluster works, once it does.
func (n *node) tellReady(ctx context.Context, ready <-chan struct{}) {
	select {
	case <-ready:
		n.log.Info("cluster ready")
	case <-ctx.Done():
	}
}

// storeName is where retained messages are, for the log.
func (n *node) storeName() string {
	switch {
	case n.clustered():
		return strings.Join(n.cfg.NATS, ",")
	case n.cfg.InMemory:
		return "memory"
	}
	return string(n.cfg.DataDir)
}
