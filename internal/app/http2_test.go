package app

import (
	"crypto/tls"
	"encoding/binary"
	"io"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pubsub/internal/config"
	"pubsub/internal/server"
	"pubsub/internal/testkit"
)

// The frame types and flags of RFC 9113 section 6.
const (
	frameHeaders, frameSettings, framePing, frameContinuation = 0x1, 0x4, 0x6, 0x9
	flagEndStream, flagAck, flagEndHeaders                    = 0x1, 0x1, 0x4
)

func appendFrame(dst []byte, kind, flags byte, stream uint32, payload []byte) []byte {
	dst = append(dst, 0, byte(len(payload)>>8), byte(len(payload)), kind, flags)
	return append(binary.BigEndian.AppendUint32(dst, stream), payload...)
}

// TestHTTP2HeadMustBeWhole checks that request headers must arrive in time. The setting
// handshake-timeout is for HTTP/1.1. Over HTTP/2, pings limit the time, because a client cannot
// answer a ping within a header block (RFC 9113 section 6.10), silent or not.
func TestHTTP2HeadMustBeWhole(t *testing.T) {
	const pingTimeout = 15 * time.Second // net/http's default
	// GET / with https and an authority of one letter (RFC 7541 appendix A).
	head := []byte{0x82, 0x84, 0x87, 0x01, 0x01, 'b'}
	field := []byte{0x00, 0x01, 'x', 0x01, 'y'}
	for _, tt := range []struct {
		name  string
		flags byte
		every time.Duration // between two fields of the rest; 0 sends no more
		acks  bool
		ends  time.Duration
	}{
		{"silent", flagEndStream, 0, false, pingAfter + pingTimeout},
		{"dripping", flagEndStream, time.Second, false, pingAfter + pingTimeout},
		{"answering the ping", flagEndStream, time.Second, true, pingAfter},
		{"whole", flagEndStream | flagEndHeaders, 0, true, config.Default().IdleTimeout},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cert := testkit.SelfSigned().TLS()
			synctest.Test(t, func(t *testing.T) {
				ln := testkit.NewPipeListener()
				n := &node{cfg: config.Default(), log: slog.New(slog.DiscardHandler), certs: &certificates{}, public: ln,
					server: server.New(server.Options{AdminToken: "admin"})}
				n.certs.current.Store(&cert)
				s := n.httpServer()
				var running sync.WaitGroup
				running.Go(func() { n.serveHTTP(s) })

				c := tls.Client(ln.Dial(), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
				// The client reads all frames, and closes its side at the end.
				ended := make(chan time.Duration, 1)
				answered := false
				begun := time.Now()
				running.Go(func() {
					var b [9]byte
					for {
						if _, err := io.ReadFull(c, b[:]); err != nil {
							break
						}
						payload := make([]byte, int(b[1])<<8|int(b[2]))
						if _, err := io.ReadFull(c, payload); err != nil {
							break
						}
						if b[3] == frameHeaders {
							answered = true
						}
						if b[3] == framePing && tt.acks {
							c.Write(appendFrame(nil, framePing, flagAck, 0, payload))
						}
					}
					c.Close()
					ended <- time.Since(begun)
				})
				b := []byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
				b = appendFrame(b, frameSettings, 0, 0, nil)
				b = appendFrame(b, frameHeaders, tt.flags, 1, head)
				if _, err := c.Write(b); err != nil {
					t.Fatal(err)
				}
				if tt.every > 0 {
					running.Go(func() {
						for {
							time.Sleep(tt.every)
							if _, err := c.Write(appendFrame(nil, frameContinuation, 0, 1, field)); err != nil {
								return
							}
						}
					})
				}
				// A graceful close of a connection waits about a second.
				if took := <-ended; took < tt.ends || took > tt.ends+2*time.Second {
					t.Errorf("ended after %v, want %v", took, tt.ends)
				}
				if want := tt.flags&flagEndHeaders != 0; answered != want {
					t.Errorf("answered: %v, want %v", answered, want)
				}
				s.Close()
				running.Wait()
			})
		})
	}
}
