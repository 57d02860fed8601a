package scenario

import (
	"crypto/tls"
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"pubsub/internal/mqtt"
	"pubsub/internal/testkit/wire"
)

// A client may shut down its sending side after the request. It gets its stream, or is closed
// without a response, and its publish is accepted. The node logs no error.
func TestHalfClosedConnections(t *testing.T) {
	plain, encrypted := start(t), startTLS(t)
	subscribe := mqtt.Subscribe{PacketID: 1, Filters: []mqtt.Filter{{Topic: "t"}}}
	for _, via := range []struct {
		name string
		n    *node
		dial func() (net.Conn, error)
	}{
		{"plain", plain, func() (net.Conn, error) { return net.Dial("tcp", plain.addr) }},
		{"TLS", encrypted.node, func() (net.Conn, error) {
			return tls.Dial("tcp", encrypted.addr, &tls.Config{InsecureSkipVerify: true})
		}},
	} {
		n := via.n
		unknown := signingKey{"unknown", "x"}.token([]string{"t"}, nil, nil)
		hello := wire.AppendFrame(nil, wire.FIN|wire.OpBinary, wire.AppendPackets(nil,
			&mqtt.Connect{Password: []byte(adminToken), HasPassword: true}, &subscribe))
		upgrade := request("GET", "/mqtt", wire.UpgradeHeader()...)
		for _, c := range []struct {
			name, request string
			ok            func(answer string) bool
		}{
			{"stream", request("GET", "/events?topic=t", asAdminLine), silentOr("event: stream-open\n")},
			{"durable stream", request("GET", "/events?topic=t&durable=1", asAdminLine), silentOr("event: stream-open\n")},
			{"unknown key", request("GET", "/events?topic=t&auth="+unknown), silentOr(`"Invalid token"`)},
			{"publication", request("POST", "/events?topic=t", asAdminLine, "Content-Length: 1") + "x",
				func(answer string) bool { return strings.HasSuffix(answer, "Published\n") }},
			{"WebSocket", upgrade + string(hello), silentOr("HTTP/1.1 101 ")},
		} {
			t.Run(via.name+" "+c.name, func(t *testing.T) {
				var wg sync.WaitGroup
				for range 8 {
					wg.Go(func() {
						for range 10 {
							conn, err := via.dial()
							if err != nil {
								t.Error(err)
								return
							}
							deadline(conn)
							io.WriteString(conn, c.request)
							conn.(interface{ CloseWrite() error }).CloseWrite()
							answer, err := io.ReadAll(conn)
							if err != nil && !isEnd(err) || !c.ok(string(answer)) {
								t.Errorf("answer %q, %v", answer, err)
							}
							conn.Close()
						}
					})
				}
				wg.Wait()
			})
		}
		if log := n.log.String(); strings.Contains(log, "level=ERROR") || strings.Contains(log, "level=WARN") || strings.Contains(log, "internal-server-error") {
			t.Errorf("%s: the log has an error", via.name)
		}
	}
}

// silentOr returns a check that an answer is empty or contains mark.
func silentOr(mark string) func(answer string) bool {
	return func(answer string) bool { return answer == "" || strings.Contains(answer, mark) }
}
