package wire_test

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	"pubsub/internal/mqtt"
	"pubsub/internal/testkit/wire"
)

func stream(text string) *wire.Stream {
	return &wire.Stream{Body: bufio.NewReader(strings.NewReader(text))}
}

// Events are read with all their fields, and anything that the broker must not send is an error.
func TestStream(t *testing.T) {
	s := stream("event: message\nid: t:1\nretry: 5\ndata: a\ndata: b\n\ndata:c\n\n")
	if e, err := s.Read(); err != nil || e.Name != "message" || e.ID != "t:1" || !e.HasID || e.Retry != "5" || e.Data != "a\nb" {
		t.Errorf("event %+v, %v", e, err)
	}
	if e, err := s.Read(); err != nil || e.HasID || e.Raw != "data:c\n" || e.Data != "c" {
		t.Errorf("event %+v, %v", e, err)
	}
	for _, bad := range []string{"data: a\r\n\n", ": comment\n\n", "name: x\n\n", "data: a\n", "data"} {
		if e, err := stream(bad).Read(); err == nil {
			t.Errorf("%q is %+v", bad, e)
		}
	}
}

func TestIsError(t *testing.T) {
	const good = "event: stream-error\nretry: 60000\ndata: {\"condition\":\"forbidden\",\"text\":\"No\"}\n"
	if !wire.IsError(good, "forbidden", "No") {
		t.Errorf("%q is not recognized", good)
	}
	for _, bad := range []string{
		strings.Replace(good, "60000", "59999", 1), strings.Replace(good, "60000", "180001", 1), strings.Replace(good, "60000", "060000", 1),
		strings.Replace(good, "retry: 60000\n", "", 1), strings.Replace(good, "No", "no", 1), good + "\n",
	} {
		if wire.IsError(bad, "forbidden", "No") {
			t.Errorf("%q is an error", bad)
		}
	}
	if wire.IsDrain(wire.Event{Raw: "event: keep-alive\ndata: \n"}) {
		t.Error("a keep-alive without retry sends the client away")
	}
}

// session returns a session that reads these bytes.
func session(frames []byte) *wire.Session {
	return &wire.Session{R: bufio.NewReader(bytes.NewReader(frames))}
}

// frame returns an unmasked frame, as servers send it.
func frame(first byte, payload []byte) []byte {
	return append([]byte{first, byte(len(payload))}, payload...)
}

// Packets may be cut into frames anywhere.
func TestSession(t *testing.T) {
	publish := (&mqtt.Publish{Topic: "t", Payload: []byte("data")}).Append(nil)
	packets := append(append([]byte{}, publish...), (&mqtt.Pingresp{}).Append(nil)...)
	for i := range packets {
		frames := append(frame(wire.FIN|wire.OpBinary, packets[:i]), frame(wire.FIN|wire.OpBinary, packets[i:])...)
		s := session(frames)
		p, err := s.Read()
		if m, ok := p.(*mqtt.Publish); err != nil || !ok || string(m.Payload) != "data" {
			t.Fatalf("cut at %d: %+v, %v", i, p, err)
		}
		if p, err := s.Read(); err != nil || p.Type() != mqtt.TypePingresp {
			t.Fatalf("cut at %d: %+v, %v", i, p, err)
		}
		if _, err := s.Read(); !errors.Is(err, io.EOF) {
			t.Fatalf("cut at %d: %v at the end", i, err)
		}
	}
	for name, bad := range map[string][]byte{
		"a fragment":     frame(wire.OpBinary, publish),
		"a reserved bit": frame(0xc0|wire.OpBinary, publish),
		"a masked frame": wire.AppendFrame(nil, wire.FIN|wire.OpBinary, publish),
		"text":           frame(wire.FIN|wire.OpText, publish),
		"a ping":         frame(wire.FIN|wire.OpPing, nil),
		"no packet":      frame(wire.FIN|wire.OpBinary, []byte{0, 0}),
	} {
		if p, err := session(bad).Read(); !errors.Is(err, wire.ErrProtocol) {
			t.Errorf("%s: packet %+v, %v; want ErrProtocol", name, p, err)
		}
	}
	var closed wire.Closed
	if _, err := session(frame(wire.FIN|wire.OpClose, []byte{3, 0xe8})).Read(); !errors.As(err, &closed) || closed.Code != 1000 {
		t.Errorf("a close with 1000: %v", err)
	}
}

// Dial accepts only the answer to its own key.
func TestDial(t *testing.T) {
	for accept, want := range map[string]bool{"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=": true, "s3pPLMBiTxaQ9kYGzzhZRbK+xOp=": false} {
		client, server := net.Pipe()
		done := make(chan struct{})
		go func() {
			defer close(done)
			server.Read(make([]byte, 4096))
			io.WriteString(server, "HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: "+accept+"\r\n\r\n")
		}()
		if _, err := wire.Dial(client); (err == nil) != want {
			t.Errorf("%s: %v", accept, err)
		}
		client.Close()
		<-done
	}
}
