package nats

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"strings"
	"time"

	"pubsub"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// ErrOptions says that the settings cannot be used.
var ErrOptions = errors.New("NATS settings unusable")

const (
	// connectTimeout bounds one attempt to connect to one server.
	connectTimeout = 2 * time.Second
	// pingInterval is how often the connection is tried; two pings without an
	// answer end it.
	pingInterval = 5 * time.Second
	// reconnectLeast and reconnectMost bound the pause between two rounds of
	// attempts: the nodes of a cluster do not come back all at once.
	reconnectLeast, reconnectMost = 50 * time.Millisecond, 500 * time.Millisecond
)

// connectOptions checks o and returns it as the client library wants it. Errors
// name the setting and never its value, where that may be secret.
func connectOptions(o *Options) ([]natsgo.Option, error) {
	var errs []error
	wrong := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if len(o.URLs) == 0 {
		wrong("no URL is given: name at least one server, as in nats://host:4222")
	}
	for i, u := range o.URLs {
		parsed, err := url.Parse(u)
		switch {
		case err != nil: // it would show the URL
			wrong("URL %d cannot be read: give nats://host:4222, or tls:// or ws://", i+1)
		case parsed.Host == "":
			wrong("URL %d names no host: give nats://host:4222", i+1)
		}
	}
	if strings.Trim(o.Prefix, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") != "" || len(o.Prefix) > maxPrefixBytes {
		wrong("prefix %q: give up to %d of A-Z, a-z, 0-9, - and _", o.Prefix, maxPrefixBytes)
	}
	if o.Replicas < 0 || o.Replicas > 5 {
		wrong("%d replicas: give 1, 3 or 5, or 0 to have it chosen", o.Replicas)
	}
	options := []natsgo.Option{
		natsgo.Name("pubsub"),
		natsgo.CustomInboxPrefix(names{o.Prefix}.inbox()),
		natsgo.Timeout(connectTimeout),
		natsgo.PingInterval(pingInterval),
		natsgo.MaxPingsOutstanding(2),
		natsgo.RetryOnFailedConnect(true),
		natsgo.MaxReconnects(-1),
		natsgo.IgnoreAuthErrorAbort(),
		natsgo.CustomReconnectDelay(func(int) time.Duration { return reconnectLeast + rand.N(reconnectMost-reconnectLeast) }),
		// What cannot be sent is told to whoever sends it, and kept nowhere.
		natsgo.ReconnectBufSize(-1),
	}
	kinds := 0
	if o.CredsFile != "" {
		kinds++
		if _, err := os.Stat(o.CredsFile); err != nil {
			wrong("credentials file: %w", err)
		}
		options = append(options, natsgo.UserCredentials(o.CredsFile))
	}
	if o.NKeyFile != "" {
		kinds++
		option, err := natsgo.NkeyOptionFromSeed(o.NKeyFile)
		if err != nil {
			wrong("NKey file %s holds no seed that can be read: %w", o.NKeyFile, err)
		}
		options = append(options, option)
	}
	if o.User != "" {
		kinds++
		options = append(options, natsgo.UserInfo(o.User, o.Password))
	} else if o.Password != "" {
		wrong("a password is given without a user")
	}
	if o.Token != "" {
		kinds++
		options = append(options, natsgo.Token(o.Token))
	}
	if kinds > 1 {
		wrong("more than one of credentials file, NKey file, user and token is given: choose one")
	}
	if (o.CertFile == "") != (o.KeyFile == "") {
		wrong("of certificate and key only one is given: give both")
	}
	// The library would show what is wrong with the files only when it connects.
	if o.CertFile != "" && o.KeyFile != "" {
		options = append(options, natsgo.ClientCert(o.CertFile, o.KeyFile))
	}
	if o.CAFile != "" {
		options = append(options, natsgo.RootCAs(o.CAFile))
	}
	for _, option := range options {
		if option == nil {
			continue // its error is among errs
		}
		if err := option(new(natsgo.Options)); err != nil {
			wrong("%w", err)
		}
	}
	if len(errs) > 0 {
		return nil, fmt.Errorf("%w: %w", ErrOptions, errors.Join(errs...))
	}
	return options, nil
}

// connect begins to connect, and goes on trying for as long as it takes.
func (l *link) connect(options []natsgo.Option) error {
	connected := func(nc *natsgo.Conn) {
		l.connected(nc.ConnectedUrlRedacted())
		// At start this is fatal, later it is only to be known.
		if err := checkServer(nc.ConnectedServerVersion(), nc.MaxPayload(), l.o.MaxMessageSize); err != nil && l.isReady() {
			l.report("NATS server unsuitable", err)
		}
	}
	options = append(options,
		natsgo.ConnectHandler(connected),
		natsgo.ReconnectHandler(func(nc *natsgo.Conn) {
			l.reconnects.Add(1)
			connected(nc)
			if l.faultCount() > 0 {
				l.doubt() // a stream that was silent may answer now
			}
		}),
		natsgo.DisconnectErrHandler(func(_ *natsgo.Conn, err error) { l.disconnected(err) }),
		natsgo.ReconnectErrHandler(func(_ *natsgo.Conn, err error) { l.waits(fmt.Errorf("cannot connect to NATS: %w", err)) }),
		natsgo.ErrorHandler(func(_ *natsgo.Conn, sub *natsgo.Subscription, err error) { l.trouble(sub, err) }),
	)
	nc, err := natsgo.Connect(strings.Join(l.o.URLs, ","), options...)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrOptions, err)
	}
	l.nc = nc
	l.js, err = jetstream.New(nc)
	return err
}

// connected and disconnected are called one at a time.
func (l *link) connected(server string) {
	l.mu.Lock()
	close(l.up)
	l.session, l.lost = context.WithCancel(context.Background())
	l.mu.Unlock()
	l.connections.kick()
	if l.o.Events.Connected != nil {
		l.o.Events.Connected(server)
	}
}

func (l *link) disconnected(err error) {
	l.mu.Lock()
	l.lost()
	select {
	case <-l.up:
		l.up = make(chan struct{})
	default:
	}
	l.mu.Unlock()
	if l.o.Events.Disconnected != nil && l.life.Err() == nil {
		l.o.Events.Disconnected(err)
	}
}

// trouble takes what the library has to say beside a call.
func (l *link) trouble(sub *natsgo.Subscription, err error) {
	if errors.Is(err, natsgo.ErrConsumerNotActive) {
		return // the consumer of a watch of keys hears nothing, and the library makes another
	}
	event := "NATS client failed"
	if errors.Is(err, natsgo.ErrSlowConsumer) {
		l.slow.Add(1)
		l.missed("slow")
		event = "slow consumer"
	}
	if sub != nil {
		err = fmt.Errorf("subscription to %s: %w", sub.Subject, err)
	}
	if l.life.Err() == nil {
		l.report(event, err)
	}
}

// isUp reports whether there is a connection. Who asks the library may have to
// wait while it connects.
func (l *link) isUp() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.up:
		return true
	default:
		return false
	}
}

// connection returns what tells one connection from another.
func (l *link) connection() context.Context {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.session
}

// isReady reports whether all has been set up.
func (l *link) isReady() bool {
	select {
	case <-l.ready:
		return true
	default:
		return false
	}
}

// awaitConnection returns nil when there is a connection.
func (l *link) awaitConnection(ctx context.Context) error {
	l.mu.Lock()
	up := l.up
	l.mu.Unlock()
	select {
	case <-up:
		return nil
	default:
	}
	select {
	case <-up:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("there is no connection to NATS: %w", context.Cause(ctx))
	}
}

// await returns nil when there is a connection and all has been set up.
func (l *link) await(ctx context.Context) error {
	if l.life.Err() != nil {
		return pubsub.ErrClosed
	}
	select {
	case <-l.ready:
	default:
		select {
		case <-l.ready:
		case <-ctx.Done():
			return fmt.Errorf("the broker has not been set up in NATS yet: %w", context.Cause(ctx))
		}
	}
	l.mu.Lock()
	err := l.failed
	l.mu.Unlock()
	if err != nil {
		return err
	}
	return l.awaitConnection(ctx)
}

// awaitStream returns nil when there is a connection, the setup is complete, and no
// stream has a known fault.
func (l *link) awaitStream(ctx context.Context, stream string) error {
	if err := l.await(ctx); err != nil {
		return err
	}
	return l.fault(stream)
}

// bound returns ctx with the bound of a call, which ends with Close, too.
func (l *link) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(ctx, l.o.Wait)
	stop := context.AfterFunc(l.life, cancel)
	return ctx, func() {
		stop()
		cancel()
	}
}

// request returns ctx for one request, which has an answer within d or never will:
// nobody answers for a stream that has no leader, and with the connection goes what
// was asked on it.
func (l *link) request(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	l.mu.Lock()
	session := l.session
	l.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, d)
	stop := context.AfterFunc(session, cancel)
	return ctx, func() {
		stop()
		cancel()
	}
}

// failure returns what a call whose context is ctx is to say of err: ErrClosed
// after Close, one that wraps the error of ctx if that is done, else err, marked as
// ErrUnavailable if trying again makes sense.
func (l *link) failure(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case l.life.Err() != nil:
		return pubsub.ErrClosed
	case errors.Is(err, ctx.Err()): // false while ctx.Err is nil
		return err // which names what was awaited
	case ctx.Err() != nil:
		return ctx.Err()
	case passing(err) && !errors.Is(err, pubsub.ErrUnavailable):
		return fmt.Errorf("%w: %w", pubsub.ErrUnavailable, err)
	}
	return err
}

// errNoLeader says that the servers that keep a stream have no leader now.
var errNoLeader = errors.New("the stream has no leader now")

// errDeposed says that the leader of a stream has not heard from most of the servers
// that keep it lately.
var errDeposed = errors.New("the leader of the stream does not hear from the other servers")

// errStale says that a server has answered that has not caught up.
var errStale = errors.New("no server that has caught up has answered")

// passing reports whether err may go away by itself.
func passing(err error) bool {
	for _, e := range []error{
		context.DeadlineExceeded, context.Canceled, natsgo.ErrTimeout, natsgo.ErrNoResponders, natsgo.ErrDisconnected,
		natsgo.ErrConnectionReconnecting, natsgo.ErrReconnectBufExceeded, natsgo.ErrStaleConnection, natsgo.ErrConnectionClosed,
		natsgo.ErrNoServers, jetstream.ErrNoStreamResponse, jetstream.ErrStreamNotFound, jetstream.ErrBucketNotFound,
		natsgo.ErrStreamNotFound, // of a watch of keys, for which the library uses older calls
		errNoLeader, errDeposed, errStale, pubsub.ErrUnavailable,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	var api *jetstream.APIError
	return errors.As(err, &api) && (api.Code == 503 || api.Code == 429)
}

// retry calls publish, which sends something, when there is a connection, and again
// if it fails for what may pass.
func (l *link) retry(ctx context.Context, publish func() error) error {
	for {
		if err := l.await(ctx); err != nil {
			return err
		}
		err := publish()
		if err == nil || !passing(err) || !pause(ctx, 10*time.Millisecond) {
			return err
		}
	}
}
