//go:build linux

package main

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"pubsub/internal/mqtt"
)

// step is one exchange of a handshake: what is sent, and how long the answer to
// it is, once that is complete: 0 until then. An error ends the handshake.
type step struct {
	send   []byte
	answer func(b []byte) (n int, err error)
}

func handshakes(n int, of func(i int) []step) [][]step {
	hs := make([][]step, n)
	for i := range hs {
		hs[i] = of(i)
	}
	return hs
}

// until waits for the first occurrence of end.
func until(end string) func([]byte) (int, error) {
	e := []byte(end)
	return func(b []byte) (int, error) {
		if i := bytes.Index(b, e); i >= 0 {
			return i + len(e), nil
		}
		return 0, nil
	}
}

// sseSubscribe asks for an event stream; bearer may be empty.
func sseSubscribe(path, bearer string) []step {
	req := fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: bench\r\nAccept: text/event-stream\r\n", path)
	if bearer != "" {
		req = fmt.Appendf(req, "Authorization: Bearer %s\r\n", bearer)
	}
	return []step{{append(req, "\r\n"...), streamOpened}}
}

var streamOpened = until("event: stream-open\ndata: \n\n")

// mqttConnect is MQTT 5.0 over TCP; an empty password is none.
func mqttConnect(id, password string) step {
	c := mqtt.Connect{CleanStart: true, ClientID: id, HasPassword: password != "", Password: []byte(password)}
	return step{c.Append(nil), connacked}
}

func mqttSubscribe(id, password, topic string) []step {
	s := mqtt.Subscribe{PacketID: 1, Filters: []mqtt.Filter{{Topic: topic}}}
	return []step{mqttConnect(id, password), {s.Append(nil), subacked}}
}

// clientID names subscriber i of a topic, and no other: MQTT allows a client
// identifier one connection.
func clientID(topic string, i int) string { return fmt.Sprintf("%s-%d", topic, i) }

var (
	connacked = packet(mqtt.TypeConnack, 3)
	subacked  = packet(mqtt.TypeSuback, -1)
)

// packet waits for a packet of the type want whose reason code is success: at
// the offset reason, counted from the end if it is negative.
func packet(want mqtt.Type, reason int) func([]byte) (int, error) {
	return func(b []byte) (int, error) {
		n, err := mqtt.PacketLen(b, 1<<16)
		if err != nil || n == 0 || n > len(b) {
			return 0, err
		}
		at := reason
		if at < 0 {
			at += n
		}
		if mqtt.TypeOf(b[0]) != want || b[at] != 0 {
			return 0, fmt.Errorf("%v with success expected", want)
		}
		return n, nil
	}
}

// overWebSocket returns the steps as they are over a WebSocket, each packet in a
// frame of its own.
func overWebSocket(path string, steps []step) []step {
	framed := []step{{
		fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: bench\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n", path),
		upgraded,
	}}
	for _, s := range steps {
		framed = append(framed, step{clientFrame(s.send), func(b []byte) (int, error) {
			if len(b) < 2 || len(b) < 2+int(b[1]) { // short, and servers do not mask
				return 0, nil
			}
			n, err := s.answer(b[2 : 2+int(b[1])])
			if n > 0 {
				n += 2
			}
			return n, err
		}})
	}
	return framed
}

var upgraded = until("\r\n\r\n")

// clientFrame returns a WebSocket frame with a mask of zeros, which RFC 6455
// allows and which costs nothing to apply.
func clientFrame(payload []byte) []byte {
	b := []byte{0x82, 0x80 | byte(min(len(payload), 126))}
	if len(payload) > 125 {
		b = binary.BigEndian.AppendUint16(b, uint16(len(payload)))
	}
	b = append(b, 0, 0, 0, 0)
	return append(b, payload...)
}
