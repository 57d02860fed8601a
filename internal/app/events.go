package app

import (
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"time"

	"pubsub/internal/backplane/local"
	"pubsub/internal/backplane/nats"
	"pubsub/internal/server"
)

// serverEvents returns functions that log and count the events of the server.
func (n *node) serverEvents() server.Events {
	m := n.metrics
	return server.Events{
		Responded: func(route, method string, status int) {
			m.responses.WithLabelValues(route, method, strconv.Itoa(status)).Inc()
		},
		Published: func(transport string, size int, retain bool, took time.Duration) {
			m.accepted(transport, size, retain, took)
		},
		PublishDropped: func(reason, topic string) {
			m.unaccepted.WithLabelValues(reason).Inc()
			n.log.Debug("publish dropped", "reason", reason, "topic", topic)
		},
		TokenRefused:    func(reason error) { n.log.Debug("token refused", "error", reason) },
		DeliveryDropped: func(reason string) { m.dropped.WithLabelValues(reason).Inc() },
		KeyCreated:      func(id string) { n.log.Info("key created", "key", id) },
		KeyDeleted:      func(id string) { n.log.Info("key deleted", "key", id) },
		Connected: func(transport string) {
			m.connections.WithLabelValues(transport).Inc()
			m.opened.WithLabelValues(transport).Inc()
		},
		Disconnected: func(transport string) { m.connections.WithLabelValues(transport).Dec() },
		Refused: func(transport, reason string) {
			m.refused.WithLabelValues(transport, reason).Inc()
			n.log.Debug("client refused", "transport", transport, "reason", reason)
		},
		ClockJumped: func(by time.Duration) { n.log.Warn("wall clock jumped", "by", by) },
		Failed:      n.failed,
		Panicked: func(value any, stack []byte) {
			m.errors.WithLabelValues("handler_panic").Inc()
			n.log.Error("request handler panicked", "panic", fmt.Sprint(value), "stack", string(stack))
		},
	}
}

// socketEvents returns functions that log the events of the connections of clients.
// [server.Sockets] itself counts them.
func (n *node) socketEvents() server.SocketEvents {
	return server.SocketEvents{
		Limited:      n.throttle.limit,
		AcceptFailed: n.acceptFailed,
		HandshakeFailed: func(from net.Addr, err error) {
			n.log.Debug("TLS handshake failed", "from", from, "error", err)
		},
	}
}

func (n *node) acceptFailed(err error) {
	n.metrics.errors.WithLabelValues("accept").Inc()
	n.throttle.line("accept", slog.LevelError, "accept failed", slog.Any("error", err), clientInterval)
}

// failed counts an error, and logs it unless the same event was logged within the last
// second. The event is a constant such as "key watch failed", from which the metric takes
// the operation key_watch.
func (n *node) failed(event string, err error) {
	n.metrics.errors.WithLabelValues(operation(event)).Inc()
	n.throttle.error(event, err)
}

// logFailure is failed for errors that only an operator can cause. It logs all of them.
func (n *node) logFailure(event string, err error) {
	n.metrics.errors.WithLabelValues(operation(event)).Inc()
	n.log.Error(event, "error", err)
}

// operation returns the operation or part that an event names, as the value of a label.
func operation(event string) string {
	for _, end := range []string{" failed", " error", " unreadable", " unusable", " corrupt"} {
		event = strings.TrimSuffix(event, end)
	}
	return strings.ReplaceAll(strings.ToLower(event), " ", "_")
}

// natsEvents returns functions that log and count the events of the backplane of a cluster.
func (n *node) natsEvents() nats.Events {
	m := n.metrics
	return nats.Events{
		Waiting:      func(err error) { n.throttle.warn("waiting for NATS", err) },
		Connected:    func(server string) { n.log.Info("connected to NATS", "server", server) },
		Disconnected: func(err error) { n.log.Warn("NATS connection lost", "error", err) },
		Resynced: func(why string, count int) {
			n.log.Debug("retained messages resynced", "reason", why, "missed", count)
		},
		GenerationChanged: func(from, to uint64) {
			m.generations.Inc()
			n.log.Warn("stream generation changed", "from", fmt.Sprintf("%016x", from), "to", fmt.Sprintf("%016x", to),
				"reason", "the stream of retained messages was recreated or restored, or has lost messages")
		},
		StreamCreated: func(stream string) { n.log.Info("stream created in NATS", "stream", stream) },
		StreamPurged:  func(stream string) { n.log.Warn("stream purged in NATS", "stream", stream) },
		Fault: func(f *nats.Fault) {
			m.errors.WithLabelValues("stream").Inc()
			n.log.Error(f.Event, "stream", f.Stream, "error", f.Err, "advice", f.Action)
		},
		Recovered: func(stream string, lasted time.Duration) {
			n.log.Info("stream usable again", "stream", stream, "fault_duration", lasted.Round(time.Millisecond))
		},
		KeysReplaced: func(stream string) {
			n.log.Warn("key bucket replaced or purged in NATS", "stream", stream, "consequence", "all keys are read again; missing keys are revoked")
		},
		Unreadable: n.unreadable,
		Error:      n.failed,
	}
}

// unreadable counts and logs a record that this release cannot read.
func (n *node) unreadable(kind, name string, err error) {
	n.metrics.errors.WithLabelValues("record").Inc()
	n.metrics.unreadable.WithLabelValues(kind).Inc()
	n.log.Error("record unreadable", "kind", kind, "name", name, "error", err)
}

// storeEvents returns functions that log and count the events of the embedded store.
func (n *node) storeEvents() local.Events {
	return local.Events{
		Expired:    func(count, bytes int64) { n.log.Debug("expired messages removed", "messages", count, "bytes", bytes) },
		Unreadable: n.unreadable,
		Exposed: func(path string, mode fs.FileMode) {
			n.log.Warn("data directory exposed", "path", path, "mode", mode.String(),
				"advice", "it contains signing keys: run chmod -R go= on the directory, and replace the keys if others may have read them")
		},
		Error: n.failed,
		Fatal: func(err error) {
			n.metrics.errors.WithLabelValues(operation("store write failed")).Inc()
			n.log.Error("store write failed", "error", err, "consequence", "the process ends; acknowledged messages are on disk")
			n.out.Flush() // the process ends when this returns
		},
	}
}
