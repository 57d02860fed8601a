//go:build linux

package main

import (
	"encoding/binary"
	"fmt"
	"net"

	"pubsub/bench/internal/load"
	"pubsub/internal/mqtt"
)

// mqttConnect returns a CONNECT of MQTT 5.0. An empty password is left out.
func mqttConnect(id, password string) load.Step {
	c := mqtt.Connect{CleanStart: true, ClientID: id, HasPassword: password != "", Password: []byte(password)}
	return load.Step{Send: c.Append(nil), Answer: connacked}
}

func mqttSubscribe(id, password, topic string) []load.Step {
	s := mqtt.Subscribe{PacketID: 1, Filters: []mqtt.Filter{{Topic: topic}}}
	return []load.Step{mqttConnect(id, password), {Send: s.Append(nil), Answer: subacked}}
}

// clientID returns the client identifier of subscriber i of a topic. It is unique, because MQTT
// allows one connection for each.
func clientID(topic string, i int) string { return fmt.Sprintf("%s-%d", topic, i) }

var (
	connacked = packet(mqtt.TypeConnack, 3)
	subacked  = packet(mqtt.TypeSuback, -1)
)

// packet returns an answer that is a packet of the type want with the reason code Success.
// reason is the offset of the reason code, from the end if it is negative.
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

// overWebSocket returns the steps over a WebSocket, each packet in a frame of its own.
func overWebSocket(path string, steps []load.Step) []load.Step {
	framed := []load.Step{{
		Send:   fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: bench\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n", path),
		Answer: upgraded,
	}}
	for _, s := range steps {
		framed = append(framed, load.Step{Send: clientFrame(s.Send), Answer: func(b []byte) (int, error) {
			if len(b) < 2 || len(b) < 2+int(b[1]) { // answers are short, and servers do not mask
				return 0, nil
			}
			n, err := s.Answer(b[2 : 2+int(b[1])])
			if n > 0 {
				n += 2
			}
			return n, err
		}})
	}
	return framed
}

var upgraded = load.Until("\r\n\r\n")

// clientFrame returns a WebSocket frame with a mask of zeros, which RFC 6455 allows, and which is
// free to apply.
func clientFrame(payload []byte) []byte {
	b := []byte{0x82, 0x80 | byte(min(len(payload), 126))}
	if len(payload) > 125 {
		b = binary.BigEndian.AppendUint16(b, uint16(len(payload)))
	}
	b = append(b, 0, 0, 0, 0)
	return append(b, payload...)
}

// mqttPublisher returns a publisher over MQTT 5.0 at QoS 0, over TCP or a WebSocket.
func mqttPublisher(addr, password, topic string, size int, webSocket bool) (*load.Publisher, error) {
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	steps := []load.Step{mqttConnect("publisher-"+topic, password)}
	publish := mqtt.Publish{Topic: topic, Payload: make([]byte, size)}
	head := publish.AppendHead(nil)
	if webSocket {
		steps = overWebSocket("/mqtt", steps)
		head = clientFrame(publish.Append(nil))
		head = head[:len(head)-size]
	}
	if err := load.ShakeHands(nc, steps); err != nil {
		nc.Close()
		return nil, err
	}
	return load.NewPublisher(nc, head, size, ""), nil
}
