// Package wire has the tests' own clients of a broker: a reader of server-sent
// events ([Stream]) and an MQTT session over a WebSocket ([Session]). They read and
// write exact bytes, and share no code with the broker but the MQTT packets of
// internal/mqtt, so that no mistake is made twice.
//
// Their methods return errors and set no deadlines. [SSE] and [MQTT] are the same
// clients for a test's goroutine: their errors fail the test, and every wait is bounded.
package wire

import (
	"net"
	"net/url"
	"strings"
	"time"

	"pubsub/internal/testkit"
)

// Key is the Sec-WebSocket-Key of all clients, the example of RFC 6455 section 1.3.
const Key = "dGhlIHNhbXBsZSBub25jZQ=="

// UpgradeHeader returns the header lines that ask for a WebSocket.
func UpgradeHeader() []string {
	return []string{"Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: " + Key}
}

// Query returns the query of a URL, with the question mark, of names and values in
// turn.
func Query(pairs ...string) string {
	var b strings.Builder
	for i := 0; i < len(pairs); i += 2 {
		b.WriteByte("?&"[min(i, 1)])
		b.WriteString(pairs[i] + "=" + url.QueryEscape(pairs[i+1]))
	}
	return b.String()
}

// deadline bounds the next reads and writes of a test's client.
func deadline(c net.Conn) { c.SetDeadline(time.Now().Add(testkit.Patience)) }
