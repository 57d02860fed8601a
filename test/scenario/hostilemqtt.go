package scenario

import (
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"pubsub/internal/config"
	"pubsub/internal/mqtt"
	"pubsub/internal/testkit/wire"
)

func (s *siege) session(t *testing.T) *wire.MQTT {
	m := wire.Upgrade(t, dial(t, s.addr))
	m.Connect(adminToken, mqtt.Connect{})
	return m
}

// Frames that are too long or malformed, and random bytes, end the connection.
func TestHostileFrames(t *testing.T) {
	s := besiege(t)
	for _, tt := range []struct {
		name  string
		bytes []byte
		code  int
	}{
		{"a frame of 2^63 bytes", []byte{0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4}, 1002},
		{"a frame of 2^64-1 bytes", []byte("\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x02\x03\x04"), 1002},
		{"a frame of 2^62 bytes", []byte{0x82, 0xff, 0x40, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4}, 1009},
		{"a ping of 126 bytes", wire.AppendFrame(nil, wire.FIN|wire.OpPing, make([]byte, 126)), 1002},
		{"a ping of 2^62 bytes", []byte{0x89, 0xff, 0x40, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4}, 1002},
		{"a frame without mask", []byte{0x82, 2, 0xc0, 0}, 1002},
	} {
		s.attack(tt.name, 4<<20, func(t *testing.T) {
			for i := range 40 {
				m := wire.Upgrade(t, dial(t, s.addr))
				if i%2 == 0 {
					m.Connect(adminToken, mqtt.Connect{})
				}
				m.Write(tt.bytes)
				m.ExpectClose(tt.code)
			}
		})
	}
	for name, begin := range map[string]func(*wire.MQTT){
		"random bytes after the upgrade": func(*wire.MQTT) {},
		"random bytes after CONNECT":     func(m *wire.MQTT) { m.Connect(adminToken, mqtt.Connect{}) },
		"random bytes within a frame":    func(m *wire.MQTT) { m.Write([]byte{0x82, 0xfe, 0xff, 0xff, 1, 2, 3, 4}) },
		"random bytes within a frame after CONNECT": func(m *wire.MQTT) {
			m.Connect(adminToken, mqtt.Connect{})
			m.Write([]byte{0x82, 0xfe, 0xff, 0xff, 1, 2, 3, 4})
		},
	} {
		s.attack(name, 8<<20, func(t *testing.T) {
			for i := range 150 {
				r := newRand(uint64(i))
				m := wire.Upgrade(t, dial(t, s.addr))
				begin(m)
				// The server may end the connection meanwhile.
				m.Conn.Write(randomBytes(r, 1+r.IntN(4096)))
				closeWrite(m.Conn)
				deadline(m.Conn)
				if _, err := io.Copy(io.Discard, m.R); err != nil && !isEnd(err) {
					t.Fatalf("connection %d: %v", i, err)
				}
				m.Conn.Close()
			}
		})
	}
}

// Packets that announce 268 MB, and the longest SUBSCRIBE, cost no more than the maximum packet
// size.
func TestHostilePackets(t *testing.T) {
	s := besiege(t)
	claims := func(first byte) []byte { return []byte{first, 0xff, 0xff, 0xff, 0x7f} } // 268,435,455 bytes
	filler := make([]byte, 30_000)
	for _, tt := range []struct {
		name      string
		connected bool
		packet    []byte
		reason    mqtt.ReasonCode // 0 for none
		code      int
	}{
		{"PUBLISH of 268 MB as the first", false, claims(0x30), 0, 1002},
		{"CONNECT of 268 MB", false, claims(0x10), mqtt.PacketTooLarge, 1000},
		{"PUBLISH of 268 MB", true, claims(0x30), mqtt.PacketTooLarge, 1000},
		{"SUBSCRIBE of 268 MB", true, claims(0x82), mqtt.PacketTooLarge, 1000},
		{"a second CONNECT of 268 MB", true, claims(0x10), mqtt.ProtocolError, 1002},
	} {
		s.attack(tt.name, 4<<20, func(t *testing.T) {
			for i := range 40 {
				m := wire.Upgrade(t, dial(t, s.addr))
				if tt.connected {
					m.Connect(adminToken, mqtt.Connect{})
				}
				packet := tt.packet
				if i%2 == 0 { // the server closes while the client is sending
					packet = append(packet[:len(packet):len(packet)], filler...)
				}
				m.WriteFrame(wire.FIN|wire.OpBinary, packet)
				if tt.reason == 0 {
					m.ExpectClose(tt.code)
				} else {
					m.ExpectEnd(tt.reason, tt.code)
				}
			}
		})
	}
	s.attack("SUBSCRIBE of all filters that a packet holds", 12<<20, func(t *testing.T) {
		var fs []mqtt.Filter
		for i := range 5000 {
			fs = append(fs, mqtt.Filter{Topic: string(rune('a'+i%26)) + string(rune('0'+i/26%10)) + string(rune(0x4e00+i/260))})
		}
		m := s.session(t)
		for range 5 {
			for _, half := range [][]mqtt.Filter{fs[:2500], fs[2500:]} {
				for i, r := range m.SubscribeWith(0, half...) {
					if r != mqtt.Success {
						t.Fatalf("filter %d: %s", i, r)
					}
				}
			}
		}
	})
}

// CONNECT must be the first packet, and complete within the handshake timeout. Otherwise the
// WebSocket is closed with 1002.
func TestHostileConnects(t *testing.T) {
	s := besiege(t, func(c *config.Config) { c.HandshakeTimeout = 400 * time.Millisecond })
	long := append([]byte{0x10, 0xbc, 0xff, 0x01}, make([]byte, 32_000)...) // of 32,704 bytes
	drip := func(frame func(i int) []byte) func(*wire.MQTT) {
		return func(m *wire.MQTT) {
			for i := 0; ; i++ {
				if _, err := m.Conn.Write(frame(i)); err != nil {
					return
				}
				time.Sleep(10 * time.Millisecond) // the attack is slow
			}
		}
	}
	connect := connectWith(strings.Repeat("x", 4000))
	for name, send := range map[string]func(*wire.MQTT){
		"nothing comes":       func(*wire.MQTT) {},
		"half a frame header": func(m *wire.MQTT) { m.Conn.Write([]byte{0x82, 0xff, 0}) },
		"32,000 bytes of one": func(m *wire.MQTT) { m.Conn.Write(wire.AppendFrame(nil, wire.FIN|wire.OpBinary, long)) },
		"a byte at a time": drip(func(i int) []byte {
			return wire.AppendFrame(nil, wire.FIN|wire.OpBinary, connect[i:i+1])
		}),
		"pings instead": drip(func(int) []byte { return wire.AppendFrame(nil, wire.FIN|wire.OpPing, nil) }),
		"empty fragments for one": drip(func(i int) []byte {
			return wire.AppendFrame(nil, [2]byte{wire.OpBinary, wire.OpContinuation}[min(i, 1)], nil)
		}),
	} {
		// 60 times 32 KB, which may double as the buffer grows.
		s.attack("CONNECT that is never complete: "+name, 8<<20, func(t *testing.T) {
			var wg sync.WaitGroup
			for range 60 {
				m := wire.Upgrade(t, dial(t, s.addr))
				wg.Go(func() { send(m) })
				wg.Go(func() {
					for {
						op, payload, err := m.ReadFrame()
						switch {
						case op == wire.OpPong && err == nil:
							continue
						case op != wire.OpClose || err != nil || len(payload) < 2 || payload[0] != 1002>>8 || payload[1] != 1002&0xff:
							t.Errorf("not a close with 1002: opcode %d, % x, %v", op, payload, err)
						}
						m.Conn.Close() // ends the sender, too
						return
					}
				})
			}
			wg.Wait()
		})
	}
}

// dialSmall connects with the smallest receive buffer, so that the kernel accepts little data for a
// client that does not read. The buffer is small from the start: if the window shrank later, the
// kernel would drop data in flight together with the acknowledgements in it, and the client could
// not send either.
func dialSmall(t *testing.T, addr string) net.Conn {
	d := net.Dialer{Control: func(_, _ string, c syscall.RawConn) (err error) {
		return errors.Join(c.Control(func(fd uintptr) {
			err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4096)
		}), err)
	}}
	c, err := d.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	deadline(c)
	return c
}

const retained = "retained"

// floods returns the bytes that a client which does not read sends again and again.
func floods() map[string][]byte {
	// Each SUBSCRIBE brings the retained message once more.
	sub := mqtt.Subscribe{PacketID: 1, Filters: []mqtt.Filter{{Topic: retained}}}
	return map[string][]byte{
		"PINGREQ":   wire.AppendFrame(nil, wire.FIN|wire.OpBinary, []byte(strings.Repeat("\xc0\x00", 8000))),
		"SUBSCRIBE": []byte(strings.Repeat(string(wire.AppendFrame(nil, wire.FIN|wire.OpBinary, sub.Append(nil))), 20)),
		"ping":      []byte(strings.Repeat(string(wire.AppendFrame(nil, wire.FIN|wire.OpPing, make([]byte, 125))), 100)),
	}
}

// flood sends b until the server has read nothing for that long, or until sending fails. It gives
// up after more bytes than the kernel can hold.
func flood(c net.Conn, b []byte, nothing time.Duration) error {
	for sent := 0; sent < 128<<20; {
		c.SetWriteDeadline(time.Now().Add(nothing))
		n, err := c.Write(b)
		sent += n
		if err != nil && (n == 0 || !errors.Is(err, os.ErrDeadlineExceeded)) {
			return err
		}
	}
	return errors.New("the server reads everything from a stalled client")
}

// flooders runs flood for each kind of bytes, count times, and checks the error that it ends with.
func (s *siege) flooders(t *testing.T, count int, nothing time.Duration, ends func(error) bool) {
	s.publish(retained, strings.Repeat("x", 32_512), "retain=true")
	var wg sync.WaitGroup
	for name, b := range floods() {
		for range count {
			m := wire.Upgrade(t, dialSmall(t, s.addr))
			m.Connect(adminToken, mqtt.Connect{})
			wg.Go(func() {
				if err := flood(m.Conn, b, nothing); !ends(err) {
					t.Errorf("%s: %v", name, err)
				}
			})
		}
	}
	wg.Wait()
}

// The server stops reading from a client that sends requests but does not read the responses.
func TestHostileStalledReaders(t *testing.T) {
	s := besiege(t, func(c *config.Config) { c.WriteTimeout = time.Hour })
	// Each of 6 clients has 64 KiB of pending responses and as much that is being written. The rest
	// is garbage: each SUBSCRIBE makes twice the retained message. All responses together would
	// take 8,000 times that.
	s.attack("PINGREQ, SUBSCRIBE and ping", 24<<20, func(t *testing.T) {
		s.flooders(t, 2, 500*time.Millisecond, func(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) })
	})
}

// A client that accepts no data for write-timeout is closed.
func TestHostileStalledReadersAreClosed(t *testing.T) {
	s := besiege(t, func(c *config.Config) {
		c.WriteTimeout = 300 * time.Millisecond
		c.SubscriberBuffer = 64 << 10
	})
	s.attack("PINGREQ, SUBSCRIBE and ping", 24<<20, func(t *testing.T) { s.flooders(t, 2, patience, isEnd) })
	message := strings.Repeat("x", 32_512)
	// busy publishes until all stalled clients have been closed. Four connections remain: three of
	// the siege and the publisher.
	busy := func(t *testing.T) {
		publisher := s.session(t)
		if !within(func() bool {
			for range 50 {
				publisher.Publish("busy", message, false)
				publisher.Ping()
			}
			return s.metric("pubsub_connections{") == 4
		}) {
			t.Errorf("%v connections remain", s.metric("pubsub_connections{"))
		}
	}
	// All clients share one log of subscriber-buffer. Each has as much in flight, encoded, and 16
	// KB to gather it.
	const clients = 20
	const bound = 2<<20 + clients*3*64<<10
	s.attack("stalled streams", bound, func(t *testing.T) {
		for range clients {
			c := dialSmall(t, s.addr)
			wire.Get(t, c, "/events?topic=busy", asAdminLine).ExpectOpen()
		}
		busy(t)
	})
	s.attack("stalled sessions", bound, func(t *testing.T) {
		for range clients {
			m := wire.Upgrade(t, dialSmall(t, s.addr))
			m.Connect(adminToken, mqtt.Connect{})
			m.Subscribe("busy")
		}
		busy(t)
	})
}
