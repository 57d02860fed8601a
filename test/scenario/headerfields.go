package scenario

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"pubsub/internal/testkit/wire"
	"strings"
	"testing"
)

// A request may have 100 header fields, and the server counts them before it stores them.
func TestHeaderFields(t *testing.T) {
	n := startTLS(t)
	plain := start(t)
	const tooLarge = "431 Request Header Fields Too Large"
	// The fields include Host and Connection.
	head := func(fields int) string {
		var more []string
		for i := range fields - 2 {
			more = append(more, fmt.Sprintf("x%d:y", i))
		}
		return request("GET", "/", append(more, lastRequest)...)
	}
	for fields, want := range map[int]string{100: "200 OK", 101: tooLarge, 5000: tooLarge} {
		if got := status(exchange(t, plain.addr, []byte(head(fields)))); got != want {
			t.Errorf("%d fields: %q", fields, got)
		}
		c := n.dial()
		go io.WriteString(c, head(fields))
		deadline(c)
		if b, err := io.ReadAll(c); err != nil || status(string(b)) != want {
			t.Errorf("%d fields over TLS: %q, %v", fields, b, err)
		}
		r, err := http.NewRequest("GET", n.url("/"), nil)
		if err != nil {
			t.Fatal(err)
		}
		for i := range min(fields, 1000) - 2 { // Accept-Encoding and User-Agent come on top
			r.Header[fmt.Sprint("X", i)] = []string{"y"}
		}
		resp, err := n.http2(0).transport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.Status != want {
			t.Errorf("%d fields over HTTP/2: %s", fields, resp.Status)
		}
	}
	// The first half of the HTTP/2 preface, followed by HTTP/1.1.
	c := n.dial()
	go io.WriteString(c, "PRI * HTTP/2.0\r\n"+strings.Repeat("a:b\r\n", 5000)+"\r\n")
	if b, err := io.ReadAll(c); err != nil || status(string(b)) != tooLarge {
		t.Errorf("half the preface of HTTP/2: %q, %v", b, err)
	}
	// The limit holds for lines that end in LF, too. It applies to each request: five of 60 fields
	// each are accepted on one connection.
	lf := strings.ReplaceAll(request("GET", "/", lastRequest), "\r\n", "\n")
	lf = strings.Replace(lf, "\n", strings.Repeat("\na:b", 101), 1)
	if got := status(exchange(t, plain.addr, []byte(lf))); got != tooLarge {
		t.Errorf("lines that end in LF: %q", got)
	}
	p := dial(t, plain.addr)
	r := bufio.NewReader(p)
	body := strings.Repeat("\n", 200)
	for i := range 5 {
		deadline(p)
		req := request("POST", "/events?topic=t", asAdminLine, strings.Repeat("a:b\r\n", 60)+"Content-Length: 200") + body
		if i == 3 {
			req = "\r\n" + req // tolerated after a POST
		}
		if _, err := io.WriteString(p, req); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := wire.ReadAll(t, resp.Body); resp.StatusCode != 200 {
			t.Errorf("request %d: %s %q", i, resp.Status, got)
		}
	}
	// Two requests without waiting for a response. Host is not counted in the second.
	two := request("HEAD", "/") + head(102)
	if got := exchange(t, plain.addr, []byte(two)); !strings.Contains(got, tooLarge) {
		t.Errorf("the second of two requests: %q", got)
	}
}

// A client that speaks HTTP to a TLS port gets a response that explains it.
func TestHTTPToTLS(t *testing.T) {
	n := startTLS(t)
	got := exchange(t, n.addr, []byte(request("GET", "/")))
	if !within(func() bool { return strings.Contains(n.log.String(), "TLS handshake failed") }) {
		t.Error("the mistake is not logged")
	}
	if status(got) != "400 Bad Request" || content(got) != "Client sent an HTTP request to an HTTPS server.\n" {
		t.Errorf("response to HTTP: %q", got)
	}
}
