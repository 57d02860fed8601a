package server

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
)

// The scanner counts the fields of a head that arrives in pieces of any size.
func TestHeadScanner(t *testing.T) {
	fields := strings.Repeat("a: b\r\n", maxFields)
	for _, c := range []struct {
		name, head string
		ok         bool
	}{
		{"the most that are allowed", "GET / HTTP/1.1\r\n" + fields + "\r\n", true},
		{"one more field", "GET / HTTP/1.1\r\n" + fields + "c: d\r\n", false},
		{"lines that end in LF", "GET / HTTP/1.1\n" + strings.ReplaceAll(fields, "\r", "") + "\n", true},
		{"one more line that ends in LF", "GET / HTTP/1.1\n" + strings.ReplaceAll(fields, "\r", "") + "c: d\n", false},
		{"empty lines first", "\r\n\n\r\nGET / HTTP/1.1\r\n" + fields + "c: d\r\n", false},
		{"folded lines", "GET / HTTP/1.1\r\n" + strings.Repeat("a:\r\n b\r\n", 51), false},
		{"lines of CR", "GET / HTTP/1.1\r\n" + strings.Repeat("\r\r\n", 101), false},
		{"a body of many lines", "GET / HTTP/1.1\r\na: b\r\n\r\n" + strings.Repeat("\r\nx", 200), true},
	} {
		for size := range 40 {
			var h headScanner
			ok := true
			for rest := []byte(c.head); len(rest) > 0 && ok; {
				n := len(rest)
				if size > 0 {
					n = min(size, n)
				}
				ok = h.scan(rest[:n])
				rest = rest[n:]
			}
			if ok != c.ok || c.ok && !h.ended {
				t.Errorf("%s, in pieces of %d: %v, ended: %v", c.name, size, ok, h.ended)
			}
		}
	}
}

// The lines of a body are not counted as fields, even if the head arrived together with the
// request before it.
func TestBodyOfPipelinedRequestIsNoHead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := serveOverPipes(t, SocketOptions{}, func(w http.ResponseWriter, r *http.Request) {
			b, err := io.ReadAll(r.Body)
			fmt.Fprintln(w, r.Method, len(b), err)
		})
		c := p.Dial()
		defer c.Close()
		body := strings.Repeat("line\n", 2*maxFields)
		r := bufio.NewReader(c)
		go fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\nPOST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n", len(body))
		for _, want := range []string{"GET 0 <nil>\n", fmt.Sprintf("POST %d <nil>\n", len(body))} {
			resp, err := http.ReadResponse(r, nil)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(resp.Body); string(got) != want || err != nil {
				t.Errorf("%d %q, %v, want %q", resp.StatusCode, got, err, want)
			}
			if body != "" {
				synctest.Wait() // until the server waits for the body
				go io.WriteString(c, body)
				body = ""
			}
		}
	})
}
