package nats

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"pubsub/internal/backplane/nats/layout"

	natsgo "github.com/nats-io/nats.go"
)

// Options are the settings of a [Backplane]. Only URLs must be set. The package config checks
// what a user has set; Open checks only the contents of files.
type Options struct {
	// URLs are the addresses of NATS servers, such as nats://host:4222 or tls://host:4222. Nodes
	// discover the other servers of the cluster.
	URLs []string
	// CredsFile is a file with the JWT and the seed of a user, NKeyFile one with only the seed
	// of an NKey. Both are read again for every connection.
	CredsFile, NKeyFile string
	// User with Password, or Token, authenticate the node instead.
	User, Password, Token string
	// CertFile and KeyFile are a client certificate and its key, CAFile the authorities that
	// sign the servers' certificates, as PEM. Each of them requires TLS.
	CertFile, KeyFile, CAFile string
	// Prefix begins the names of the broker's streams and subjects in NATS: up to 32 of A-Z,
	// a-z, 0-9, '-' and '_'. Default "pubsub".
	Prefix string
	// Replicas is the number of servers that keep each retained message and key: 1, 3 or 5. With
	// 0, existing streams are used as they are, and new ones have 3 replicas in a cluster, else 1.
	Replicas int
	// MaxMessageSize is the length of the longest message, in bytes, that NATS must accept.
	// Default 32,512.
	MaxMessageSize int
	// SyncInterval is the time between two resyncs without another cause; it varies by a tenth.
	// Default 120 s.
	SyncInterval time.Duration
	// Wait bounds how long a call waits for NATS. A context may bound it further. Default 5 s.
	Wait time.Duration
	// Linger is for how long a node stays subscribed to a topic after its last Unsubscribe.
	// Default 5 s.
	Linger time.Duration
	// Events report what the backplane does.
	Events Events

	// Set by tests.
	checkInterval time.Duration // of the guard, default checkInterval
	settleTime    time.Duration // default settleTime
	checked       func()        // if not nil, called after each check of the streams
}

// ErrOptions reports unusable options.
var ErrOptions = errors.New("NATS settings unusable")

func setDefaults(o *Options) {
	o.Prefix = cmp.Or(o.Prefix, "pubsub")
	o.MaxMessageSize = cmp.Or(o.MaxMessageSize, 32512)
	o.SyncInterval = cmp.Or(o.SyncInterval, 120*time.Second)
	o.Wait = cmp.Or(o.Wait, 5*time.Second)
	o.Linger = cmp.Or(o.Linger, 5*time.Second)
	o.checkInterval = cmp.Or(o.checkInterval, checkInterval)
	o.settleTime = cmp.Or(o.settleTime, settleTime)
}

const (
	// connectTimeout bounds one attempt to connect to one server.
	connectTimeout = 2 * time.Second
	// pingInterval is the time between two pings. Two pings without an answer end the
	// connection when the third is due.
	pingInterval = 5 * time.Second
	// reconnectMin and reconnectMax bound the random pause between two rounds of attempts to
	// connect, so that the nodes of a cluster do not return all at once.
	reconnectMin, reconnectMax = 50 * time.Millisecond, 500 * time.Millisecond
)

// connectOptions returns o as options of the client library. The error, an [ErrOptions], lists
// every unusable file and never shows a secret.
func connectOptions(o *Options) ([]natsgo.Option, error) {
	options := []natsgo.Option{
		natsgo.Name("pubsub"),
		natsgo.CustomInboxPrefix(layout.Names{Prefix: o.Prefix}.Inbox()),
		natsgo.Timeout(connectTimeout),
		natsgo.PingInterval(pingInterval),
		natsgo.MaxPingsOutstanding(2),
		natsgo.RetryOnFailedConnect(true),
		natsgo.MaxReconnects(-1),
		natsgo.IgnoreAuthErrorAbort(),
		natsgo.CustomReconnectDelay(func(int) time.Duration { return reconnectMin + rand.N(reconnectMax-reconnectMin) }),
		// Without a connection, a call must fail: a buffered message would be published late.
		natsgo.ReconnectBufSize(-1),
	}
	var errs []error
	if len(o.URLs) == 0 { // the library would try its default
		errs = append(errs, errors.New("no URL is given: name at least one server, as in nats://host:4222"))
	}
	if o.CredsFile != "" {
		options = append(options, natsgo.UserCredentials(o.CredsFile))
	}
	if o.NKeyFile != "" {
		option, err := natsgo.NkeyOptionFromSeed(o.NKeyFile)
		if err != nil {
			errs = append(errs, fmt.Errorf("NKey file %s holds no readable seed: %w", o.NKeyFile, err))
		} else {
			options = append(options, option)
		}
	}
	if o.User != "" {
		options = append(options, natsgo.UserInfo(o.User, o.Password))
	}
	if o.Token != "" {
		options = append(options, natsgo.Token(o.Token))
	}
	if o.CertFile != "" || o.KeyFile != "" {
		options = append(options, natsgo.ClientCert(o.CertFile, o.KeyFile))
	}
	if o.CAFile != "" {
		options = append(options, natsgo.RootCAs(o.CAFile))
	}
	// The library would return the errors of the files one by one, with the first connection.
	for _, option := range options {
		if err := option(new(natsgo.Options)); err != nil {
			errs = append(errs, err)
		}
	}
	if len(errs) > 0 {
		return nil, fmt.Errorf("%w: %w", ErrOptions, errors.Join(errs...))
	}
	return options, nil
}
