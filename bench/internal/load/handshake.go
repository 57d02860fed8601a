//go:build linux

package load

import (
	"bytes"
	"fmt"
	"net"
	"time"
)

// Step is one exchange of a handshake: the request, and a function that returns the length of
// the answer at the start of b, or 0 while it is incomplete. An error ends the handshake.
type Step struct {
	Send   []byte
	Answer func(b []byte) (n int, err error)
}

// Handshakes returns the handshakes of n subscribers.
func Handshakes(n int, of func(i int) []Step) [][]Step {
	hs := make([][]Step, n)
	for i := range hs {
		hs[i] = of(i)
	}
	return hs
}

// Until returns an answer that ends with the first occurrence of end.
func Until(end string) func([]byte) (int, error) {
	e := []byte(end)
	return func(b []byte) (int, error) {
		if i := bytes.Index(b, e); i >= 0 {
			return i + len(e), nil
		}
		return 0, nil
	}
}

// SSESubscribe requests an event stream. bearer may be empty.
func SSESubscribe(path, bearer string) []Step {
	req := fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: bench\r\nAccept: text/event-stream\r\n", path)
	if bearer != "" {
		req = fmt.Appendf(req, "Authorization: Bearer %s\r\n", bearer)
	}
	return []Step{{append(req, "\r\n"...), streamOpened}}
}

var streamOpened = Until("event: stream-open\ndata: \n\n")

// ShakeHands does a handshake on a connection.
func ShakeHands(nc net.Conn, steps []Step) error {
	nc.SetDeadline(time.Now().Add(10 * time.Second))
	defer nc.SetDeadline(time.Time{})
	for _, s := range steps {
		if _, err := nc.Write(s.Send); err != nil {
			return err
		}
		var b [4096]byte
		for n, whole := 0, 0; whole == 0; {
			k, err := nc.Read(b[n:])
			if err != nil {
				return fmt.Errorf("%w after %q", err, b[:n])
			}
			n += k
			if whole, err = s.Answer(b[:n]); err != nil {
				return fmt.Errorf("%w: %q", err, b[:n])
			}
		}
	}
	return nil
}
