//go:build linux

package main

import (
	"testing"

	"pubsub/bench/internal/load"
)

// Answers may arrive in pieces, and other bytes may follow them.
func TestAnswersOfHandshakes(t *testing.T) {
	for name, tt := range map[string]struct {
		steps  []load.Step
		answer string
	}{
		"sse":       {load.SSESubscribe("/", ""), "HTTP/1.1 200 OK\r\n\r\nevent: stream-open\ndata: \n\n"},
		"mqtt":      {mqttSubscribe("c", "p", "t"), "\x20\x03\x00\x00\x00" + "\x90\x04\x00\x01\x00\x00"},
		"websocket": {overWebSocket("/", mqttSubscribe("c", "p", "t")), "HTTP/1.1 101 Switching Protocols\r\n\r\n" + "\x82\x05\x20\x03\x00\x00\x00" + "\x82\x06\x90\x04\x00\x01\x00\x00"},
		"nats":      {natsConnect("SUB t 1\r\n"), "INFO {}\r\nPONG\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			for i := range len(tt.answer) {
				b, taken := []byte(tt.answer[:i]), 0
				steps := tt.steps
				take := func() {
					for len(steps) > 0 {
						n, err := steps[0].Answer(b[taken:])
						if err != nil {
							t.Fatalf("%q, cut at %d: %v", tt.answer, i, err)
						}
						if n == 0 {
							return
						}
						taken, steps = taken+n, steps[1:]
					}
				}
				take()
				if len(steps) == 0 {
					t.Fatalf("complete after %d of %d bytes", i, len(tt.answer))
				}
				b = append(b, tt.answer[i:]+"more"...)
				if take(); len(steps) > 0 || taken != len(tt.answer) {
					t.Fatalf("cut at %d: %d steps are left, %d bytes are taken, want 0 and %d", i, len(steps), taken, len(tt.answer))
				}
			}
		})
	}
	refused := "\x20\x03\x00\x87\x00"
	if _, err := connacked([]byte(refused)); err == nil {
		t.Errorf("%q is a success", refused)
	}
}
