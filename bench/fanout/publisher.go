//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"time"

	"pubsub/internal/mqtt"
)

// publisher publishes to one topic over one connection.
type publisher struct {
	nc       net.Conn
	request  []byte
	stamp    []byte // the part of request that differs from message to message
	answered bool   // by HTTP
}

// newPublisher returns one that sends messages of size bytes between before and
// after.
func newPublisher(nc net.Conn, before []byte, size int, after string) *publisher {
	end := fmt.Sprintf("%0*d%s", stampDigits, 0, marker)
	request := append(before, bytes.Repeat([]byte("x"), size-len(end))...)
	at := len(request)
	request = append(append(request, end...), after...)
	return &publisher{nc: nc, request: request, stamp: request[at : at+stampDigits]}
}

// postPublisher publishes by HTTP; bearer may be empty.
func postPublisher(addr, path, bearer string, size int) (*publisher, error) {
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	head := fmt.Appendf(nil, "%s %s HTTP/1.1\r\nHost: bench\r\nContent-Length: %d\r\n", http.MethodPost, path, size)
	if bearer != "" {
		head = fmt.Appendf(head, "Authorization: Bearer %s\r\n", bearer)
	}
	p := newPublisher(nc, append(head, "\r\n"...), size, "")
	p.answered = true
	return p, nil
}

// mqttPublisher publishes by MQTT 5.0 over TCP, at QoS 0.
func mqttPublisher(addr, topic string, size int) (*publisher, error) {
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	if err := shakeHands(nc, []step{mqttConnect("publisher-"+topic, "")}); err != nil {
		nc.Close()
		return nil, err
	}
	publish := mqtt.Publish{Topic: topic, Payload: make([]byte, size)}
	return newPublisher(nc, publish.AppendHead(nil), size, ""), nil
}

// shakeHands goes through a handshake on a connection of its own.
func shakeHands(nc net.Conn, steps []step) error {
	nc.SetDeadline(time.Now().Add(10 * time.Second))
	defer nc.SetDeadline(time.Time{})
	for _, s := range steps {
		if _, err := nc.Write(s.send); err != nil {
			return err
		}
		var b [4096]byte
		for n, whole := 0, 0; whole == 0; {
			k, err := nc.Read(b[n:])
			if err != nil {
				return fmt.Errorf("%w after %q", err, b[:n])
			}
			n += k
			if whole, err = s.answer(b[:n]); err != nil {
				return fmt.Errorf("%w: %q", err, b[:n])
			}
		}
	}
	return nil
}

// publish returns when the target has accepted a message, or, where the protocol
// has no answer, when it is on its way.
func (p *publisher) publish() error {
	copy(p.stamp, fmt.Sprintf("%0*d", stampDigits, time.Since(epoch)))
	if _, err := p.nc.Write(p.request); err != nil || !p.answered {
		return err
	}
	var b [4096]byte
	for n := 0; ; {
		k, err := p.nc.Read(b[n:])
		if err != nil {
			return err
		}
		n += k
		if whole, err := httpAnswer(b[:n]); err != nil || whole {
			return err
		}
	}
}

// httpAnswer says whether b is a whole answer, which has to be a success.
func httpAnswer(b []byte) (whole bool, err error) {
	head, body, ok := bytes.Cut(b, []byte("\r\n\r\n"))
	if !ok {
		return false, nil
	}
	if !bytes.HasPrefix(head, []byte("HTTP/1.1 2")) {
		return false, fmt.Errorf("not published: %q", b)
	}
	_, length, ok := bytes.Cut(head, []byte("\r\nContent-Length: "))
	if !ok {
		return false, errors.New("an answer without Content-Length")
	}
	length, _, _ = bytes.Cut(length, []byte("\r\n"))
	n, err := strconv.Atoi(string(length))
	return len(body) >= n, err
}

func (p *publisher) close() { p.nc.Close() }
