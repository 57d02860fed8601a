//go:build linux

package attack_test

import (
	"context"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"time"
)

// attacker is a kind of client without a token, of which there are many.
type attacker struct {
	name string
	// atOnce bounds the open connections of each flood. Idle attackers have many more
	// than the broker has descriptors. Those that keep a connection busy leave room for
	// publishers, because the broker closes only idle connections.
	atOnce int
	// encrypted reports whether it speaks TLS if the broker does.
	encrypted bool
	hello     string
}

var attackers = []attacker{
	{"silent", 300, false, ""},
	{"idle after a request", 300, true, "GET / HTTP/1.1\r\nHost: broker\r\n\r\n"},
	{"half a head", 200, true, "GET /events?topic=t HTTP/1.1\r\nHost: bro"},
	{"half a ClientHello", 200, false, "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"},
	{"a stream without a token", 100, true, "GET /events?topic=t HTTP/1.1\r\nHost: broker\r\n\r\n"},
	{"a body that does not arrive", 15, true, "POST /events?topic=t HTTP/1.1\r\nHost: broker\r\nContent-Length: 32512\r\n\r\nx"},
	{"a WebSocket without CONNECT", 15, true, "GET /mqtt HTTP/1.1\r\nHost: broker\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"},
	{"61 KB of short fields", 100, true, "GET / HTTP/1.1\r\nHost: broker\r\n" + strings.Repeat("a:b\r\n", 12_000)},
}

// flood connects attackers of the kind, as fast as they are accepted, until ctx is done.
// The oldest disconnects when there are too many.
func (s *attacker) flood(ctx context.Context, b *broker, r *rand.Rand) {
	var open []net.Conn
	defer func() {
		for _, c := range open {
			c.Close()
		}
	}()
	for ctx.Err() == nil {
		if len(open) >= s.atOnce {
			open[0].Close()
			open = open[1:]
		}
		if c := s.connect(ctx, b); c != nil {
			open = append(open, c)
		}
		// A short pause, so that the publishers get some CPU time.
		select {
		case <-ctx.Done():
		case <-time.After(time.Duration(r.IntN(2000)) * time.Microsecond):
		}
	}
}

// connect connects and sends the bytes of the kind. It returns nil if that fails.
func (s *attacker) connect(ctx context.Context, b *broker) net.Conn {
	var c net.Conn
	var err error
	if s.encrypted {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		c, err = b.dial(ctx)
	} else {
		c, err = (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", b.Addr)
	}
	if err != nil {
		return nil
	}
	c.SetWriteDeadline(time.Now().Add(time.Second))
	if _, err := io.WriteString(c, s.hello); err != nil {
		c.Close()
		return nil
	}
	return c
}
