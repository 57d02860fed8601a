//go:build linux

package main

import (
	"strings"
	"testing"
	"time"
)

// However a stream is cut into reads, each message is counted once, when its end
// is there, and its age is taken.
func TestCountOfSplitMessages(t *testing.T) {
	p := newPublisher(nil, []byte("event: message\ndata: "), 64, "\n\n")
	message := string(p.request)
	if end := strings.Repeat("0", stampDigits) + marker + "\n\n"; !strings.HasSuffix(message, end) {
		t.Fatalf("%q does not end in %q", message, end)
	}
	stream := strings.Repeat(message, 3)
	ended := func(n int) int { return strings.Count(stream[:n], marker) }
	for i := range len(stream) {
		for j := i; j <= len(stream); j++ {
			p := &pool{stamped: true, conns: make([]conn, 1)}
			p.resetCounts()
			c := &p.conns[0]
			from := 0
			for _, to := range []int{i, j, len(stream)} {
				p.count(0, append(c.tail[:c.kept:c.kept], stream[from:to]...))
				if from = to; p.received() != ended(to) {
					t.Fatalf("cut at %d and %d: %d messages after %d bytes, want %d", i, j, p.received(), to, ended(to))
				}
			}
			ages := p.takeAges()
			if len(ages) != 3 {
				t.Fatalf("cut at %d and %d: %d ages, want 3", i, j, len(ages))
			}
			for _, age := range ages {
				if age <= 0 || age > time.Since(epoch) {
					t.Fatalf("cut at %d and %d: age %v of a message from the beginning, %v ago", i, j, age, time.Since(epoch))
				}
			}
		}
	}
}

// What comes right behind a handshake is counted, and what is cut up is put
// together.
func TestAnswersOfHandshakes(t *testing.T) {
	for name, tt := range map[string]struct {
		steps  []step
		answer string
	}{
		"sse":       {sseSubscribe("/", ""), "HTTP/1.1 200 OK\r\n\r\nevent: stream-open\ndata: \n\n"},
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
						n, err := steps[0].answer(b[taken:])
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
