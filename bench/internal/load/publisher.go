//go:build linux

package load

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
)

// Publisher publishes to one topic over one connection.
type Publisher struct {
	nc       net.Conn
	request  []byte
	stamp    []byte // the part of request that differs between messages
	answered bool   // by HTTP
}

// NewPublisher returns a publisher of messages of size bytes, each between before and after.
func NewPublisher(nc net.Conn, before []byte, size int, after string) *Publisher {
	end := fmt.Sprintf("%0*d%s", stampDigits, 0, marker)
	request := append(before, bytes.Repeat([]byte("x"), size-len(end))...)
	at := len(request)
	request = append(append(request, end...), after...)
	return &Publisher{nc: nc, request: request, stamp: request[at : at+stampDigits]}
}

// Post returns a publisher of messages of size bytes by HTTP. bearer may be empty.
func Post(addr, path, bearer string, size int) (*Publisher, error) {
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	head := fmt.Appendf(nil, "%s %s HTTP/1.1\r\nHost: bench\r\nContent-Length: %d\r\n", http.MethodPost, path, size)
	if bearer != "" {
		head = fmt.Appendf(head, "Authorization: Bearer %s\r\n", bearer)
	}
	p := NewPublisher(nc, append(head, "\r\n"...), size, "")
	p.answered = true
	return p, nil
}

// Publish publishes a message. It waits until the target has accepted the message, if the
// protocol has an answer.
func (p *Publisher) Publish() error {
	copy(p.stamp, fmt.Sprintf("%0*d", stampDigits, Now()))
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

// httpAnswer reports whether b is a whole response. One that is not a success is an error.
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
		return false, errors.New("response without Content-Length")
	}
	length, _, _ = bytes.Cut(length, []byte("\r\n"))
	n, err := strconv.Atoi(string(length))
	return len(body) >= n, err
}

// Close ends the connection.
func (p *Publisher) Close() { p.nc.Close() }
