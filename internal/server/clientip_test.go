package server

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"
)

func TestClientAddr(t *testing.T) {
	s := &Server{o: Options{TrustedProxies: []netip.Prefix{
		netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32"),
	}}}
	for _, c := range []struct {
		name, remote, forwarded, want string // several headers: separated by \n
	}{
		{"direct", "192.0.2.1:1234", "", "192.0.2.1"},
		{"IPv6", "[2001:4860::1]:1234", "", "2001:4860::1"},
		{"IPv4 in IPv6", "[::ffff:192.0.2.1]:1", "", "192.0.2.1"},
		{"with a zone", "[fe80::1%eth0]:1", "", "fe80::1"},
		{"not a trusted proxy", "192.0.2.1:1234", "198.51.100.1", "192.0.2.1"},
		{"behind a proxy", "10.0.0.1:1234", "192.0.2.1", "192.0.2.1"},
		{"proxy without a header", "10.0.0.1:1234", "", "10.0.0.1"},
		{"forged address on the left", "10.0.0.1:1", "198.51.100.1, 192.0.2.1", "192.0.2.1"},
		{"two proxies", "10.0.0.1:1", "198.51.100.1, 192.0.2.1 ,10.9.9.9", "192.0.2.1"},
		{"two headers", "10.0.0.1:1", "198.51.100.1\n192.0.2.1, 10.9.9.9", "192.0.2.1"},
		{"the client is in the first header", "10.0.0.1:1", "192.0.2.1\n10.9.9.9", "192.0.2.1"},
		{"proxies only", "10.0.0.1:1", "10.0.0.3, 10.0.0.2", "10.0.0.3"},
		{"IPv6 behind an IPv6 proxy", "[2001:db8::1]:1", "2001:4860::1", "2001:4860::1"},
		{"with ports", "10.0.0.1:1", "192.0.2.1:80", "192.0.2.1"},
		{"in brackets", "10.0.0.1:1", "[2001:4860::1]", "2001:4860::1"},
		{"in brackets, with a port", "10.0.0.1:1", "[2001:4860::1]:80", "2001:4860::1"},
		{"garbage", "10.0.0.1:1", "192.0.2.1, unknown", "10.0.0.1"},
		{"garbage further left", "10.0.0.1:1", "unknown, 10.0.0.2", "10.0.0.2"},
		{"empty elements", "10.0.0.1:1", ", 192.0.2.1, ,", "192.0.2.1"},
		{"only commas", "10.0.0.1:1", ",,,", "10.0.0.1"},
		{"long", "10.0.0.1:1", strings.Repeat("1.1.1.1,", 5000) + "192.0.2.1", "192.0.2.1"},
		{"Unix socket", "@", "192.0.2.1", "invalid IP"},
	} {
		x := exchange{method: "GET", target: "/", header: map[string]string{}}
		if c.forwarded != "" {
			x.header["X-Forwarded-For"] = c.forwarded
		}
		r := request(x)
		r.RemoteAddr = c.remote
		if got := s.clientAddr(r).String(); got != c.want {
			t.Errorf("%s: got %s, want %s", c.name, got, c.want)
		}
	}
}

func TestProxyListener(t *testing.T) {
	v1 := "PROXY TCP4 192.0.2.7 192.0.2.8 1000 2000\r\n"
	var v2 strings.Builder
	header := &proxyproto.Header{
		Version: 2, Command: proxyproto.PROXY, TransportProtocol: proxyproto.TCPv6,
		SourceAddr:      &net.TCPAddr{IP: net.ParseIP("2001:4860::7"), Port: 1000},
		DestinationAddr: &net.TCPAddr{IP: net.ParseIP("2001:4860::8"), Port: 2000},
	}
	if _, err := header.WriteTo(&v2); err != nil {
		t.Fatal(err)
	}
	loopback := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	for _, c := range []struct {
		name    string
		trusted []netip.Prefix
		header  string
		want    string // the address that the handler sees, or the status of an error
	}{
		{"version 1", loopback, v1, "192.0.2.7"},
		{"version 2", loopback, v2.String(), "2001:4860::7"},
		{"version 1, without an end", loopback, "PROXY TCP4 " + strings.Repeat("1", 100), "400 Bad Request"},
		{"version 1, malformed", loopback, "PROXY TCP4 one two\r\n", "400 Bad Request"},
		{"version 1, unknown", loopback, "PROXY UNKNOWN\r\n", "127.0.0.1"},
		{"no header", loopback, "", "127.0.0.1"},
		{"not trusted", []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, v1, "400 Bad Request"},
		{"version 2, not trusted", []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, v2.String(), "400 Bad Request"},
		{"no trusted proxies", nil, v1, "400 Bad Request"},
		{"not trusted, no header", []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, "", "127.0.0.1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := &Server{o: Options{TrustedProxies: c.trusted}}
			srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				io.WriteString(w, s.clientAddr(r).String())
			}))
			addr := srv.Listener.Addr().String()
			srv.Listener = NewSockets(SocketOptions{TrustedProxies: c.trusted, HandshakeTimeout: 10 * time.Second}).Listener(srv.Listener, nil)
			srv.Start()
			defer srv.Close()
			conn, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := io.WriteString(conn, c.header+"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); err != nil {
				t.Fatal(err)
			}
			res, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(res.Body)
			if err != nil {
				t.Fatal(err)
			}
			got := string(body)
			if res.StatusCode != 200 {
				got = res.Status
			}
			if got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// A header may arrive in pieces of any size.
func TestProxyHeaderInPieces(t *testing.T) {
	v1 := "PROXY TCP4 192.0.2.7 192.0.2.8 1000 2000\r\n"
	v2 := "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x07\xc0\x00\x02\x08\x03\xe8\x07\xd0"
	for _, c := range []struct{ header, rest, want string }{
		{v1, "GET / HTTP/1.1\r\n", "192.0.2.7:1000"},
		{v2, "GET / HTTP/1.1\r\n", "192.0.2.7:1000"},
		{"", "POST / HTTP/1.1\r\n", "pipe"},
		{"", "PROPFIND / HTTP/1.1\r\n", "pipe"},
		{"", "\r\n\r\nGET / HTTP/1.1\r\n", "pipe"},
	} {
		all := c.header + c.rest
		for size := 1; size <= len(all); size++ {
			client, server := net.Pipe()
			s := NewSockets(SocketOptions{})
			conn := newProxiedConn(&socket{Conn: server, sockets: s, counted: true}, time.Minute)
			go func() {
				defer client.Close()
				for rest := all; rest != ""; rest = rest[min(size, len(rest)):] {
					if _, err := io.WriteString(client, rest[:min(size, len(rest))]); err != nil {
						t.Error(err)
						return
					}
				}
			}()
			addr := conn.RemoteAddr().String()
			rest, err := io.ReadAll(conn)
			if addr != c.want || string(rest) != c.rest || err != nil {
				t.Errorf("%q in pieces of %d: %s, then %q, %v", all, size, addr, rest, err)
			}
			conn.Close()
		}
	}
}
