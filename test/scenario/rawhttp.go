package scenario

import (
	"io"
	"net"
	"strings"
	"sync"
	"testing"
)

// exchange sends b and then calls more, over a new connection, and returns all that the server
// sends until it ends the connection. It may end it by a reset, or before it has read everything,
// because it need not read a request that it refuses.
func exchange(t *testing.T, addr string, b []byte, more ...func(net.Conn)) string {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Error(err)
		return ""
	}
	defer c.Close()
	deadline(c)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer c.Close() // first, so that pending writes fail
	wg.Go(func() {
		if _, err := c.Write(b); err != nil {
			return
		}
		for _, f := range more {
			f(c)
		}
	})
	got, err := io.ReadAll(c)
	if err != nil && !isEnd(err) {
		t.Errorf("after %.60q: %.100q, and then %v", b, got, err)
	}
	return string(got)
}

func closeWrite(c net.Conn) { c.(*net.TCPConn).CloseWrite() }

// status returns the status line of a response without the version.
func status(response string) string {
	line, _, _ := strings.Cut(response, "\r\n")
	return strings.TrimPrefix(strings.TrimPrefix(line, "HTTP/1.1 "), "HTTP/1.0 ")
}

// content returns what follows the head of a response.
func content(response string) string {
	_, b, _ := strings.Cut(response, "\r\n\r\n")
	return b
}

// refusal returns the body of a refused stream, without its retry.
func refusal(condition, text string) string {
	return "event: stream-error\ndata: {\"condition\":\"" + condition + "\",\"text\":\"" + text + "\"}\n\n"
}

// request returns the head of an HTTP/1.1 request.
func request(method, target string, header ...string) string {
	return method + " " + target + " HTTP/1.1\r\nHost: broker\r\n" + strings.Join(append(header, "", ""), "\r\n")
}

const (
	asAdminLine = "Fastly-Key: " + adminToken
	lastRequest = "Connection: close"
)
