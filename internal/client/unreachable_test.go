package client

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"
)

// everyCall uses a server in each way and calls do with the error.
func everyCall(t *testing.T, c *Client, do func(call string, err error)) {
	t.Helper()
	s := Subscription{Topics: []string{"secret-topic"}, Message: func(Message) error { t.Error("unexpected message"); return nil }}
	_, err := c.Publish(t.Context(), "tok", Publication{Topic: "secret-topic"})
	do("publish", err)
	do("SSE", c.SubscribeSSE(t.Context(), s))
	do("MQTT", c.SubscribeMQTT(t.Context(), s))
	_, err = c.Keys(t.Context(), "tok")
	do("admin", err)
}

// TestUnreachable checks the cause and the text of the error for servers that cannot be
// reached.
func TestUnreachable(t *testing.T) {
	welcome := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "welcome") })
	plain := httptest.NewServer(welcome)
	defer plain.Close()
	secure := newTLSServer(t, welcome, time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
	expired := newTLSServer(t, welcome, time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour))
	early := newTLSServer(t, welcome, time.Now().Add(time.Hour), time.Now().Add(2*time.Hour))
	closed := httptest.NewServer(welcome)
	closed.Close()
	swap := strings.NewReplacer("https://", "http://", "http://", "https://").Replace
	text := func(status int, body string) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			w.WriteHeader(status)
			io.WriteString(w, body)
		}))
		t.Cleanup(s.Close)
		return s.URL
	}
	const needsTLS = "the port speaks TLS (https), not http"
	for _, tt := range []struct {
		name, url string
		roots     *httptest.Server
		cause     Cause
		text      string
	}{
		{"refused", closed.URL, nil, Refused, "connection refused"},
		{"unknown authority", secure.URL, nil, UnknownAuthority, "its certificate is signed by an unknown authority"},
		{"another authority", secure.URL, expired, UnknownAuthority, "its certificate is signed by an unknown authority"},
		{"another name", strings.Replace(secure.URL, "127.0.0.1", "localhost", 1), secure, WrongName,
			"its certificate is for another name: broker.example, 127.0.0.1, not localhost"},
		{"expired", expired.URL, expired, OutOfDate, "its certificate expired at "},
		{"not yet valid", early.URL, early, OutOfDate, "its certificate is not valid before "},
		{"https to http", swap(plain.URL), nil, NoTLS, "the port does not speak TLS (https)"},
		{"https to another protocol", "https://" + answerWith(t, "INFO {}\r\n"), nil, NoTLS, "the port does not speak TLS (https)"},
		{"http to https", swap(secure.URL), nil, NeedsTLS, needsTLS},
		{"http to https, by an alert", "http://" + answerWith(t, "\x15\x03\x01\x00\x02\x02\x46"), nil, NeedsTLS, needsTLS},
		{"http to https, nginx", text(400, "<h1>400 Bad Request</h1>The plain HTTP request was sent to HTTPS port"), nil, NeedsTLS, needsTLS},
		{"http to https, Apache", text(400, "Reason: You're speaking plain HTTP to an SSL-enabled server port.<br />"), nil, NeedsTLS, needsTLS},
		{"no HTTP", "http://" + answerWith(t, "INFO {}\r\n"), nil, NoHTTP, "the port does not speak HTTP"},
		{"no answer", "http://" + answerWith(t, ""), nil, Disconnected, "the connection was closed before an answer"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var roots *x509.CertPool
			if tt.roots != nil {
				roots = x509.NewCertPool()
				roots.AddCert(tt.roots.Certificate())
			}
			c, err := New(tt.url, roots)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			everyCall(t, c, func(call string, err error) {
				var u *Unreachable
				if !errors.As(err, &u) || u.Cause != tt.cause || !strings.HasPrefix(err.Error(), "cannot reach "+tt.url+": ") ||
					!strings.Contains(err.Error(), tt.text) || strings.Contains(err.Error(), "secret-topic") {
					t.Errorf("%s: %v, cause %d; want %q, %d", call, err, u.Cause, tt.text, tt.cause)
				}
			})
		})
	}
}

// TestCauses checks errors that do not occur on a loopback interface.
func TestCauses(t *testing.T) {
	dial := func(err error) error { return &net.OpError{Op: "dial", Net: "tcp", Err: err} }
	for _, tt := range []struct {
		err  error
		want Cause
		text string
	}{
		{dial(&net.DNSError{Err: "no such host", Name: "a.example", IsNotFound: true}), NoSuchHost, `the host "a.example" does not exist`},
		{dial(&net.DNSError{Err: "server misbehaving", Name: "a.example"}), NoSuchHost, `cannot look up the host "a.example": server misbehaving`},
		{dial(&net.DNSError{Err: "i/o timeout", Name: "a.example", IsTimeout: true}), NoSuchHost, `cannot look up the host "a.example": i/o timeout`},
		{dial(syscall.EHOSTUNREACH), NoRoute, ""},
		{dial(syscall.ETIMEDOUT), TimedOut, "timed out: no answer within 30s"},
		{context.DeadlineExceeded, TimedOut, "timed out: no answer within 30s"},
		{&net.OpError{Op: "proxyconnect", Err: dial(syscall.ECONNREFUSED)}, ProxyFailed, "the proxy set in the environment failed: dial tcp: connection refused"},
		{&net.OpError{Op: "read", Err: syscall.ECONNRESET}, Disconnected, "the connection was closed before an answer"},
		{errors.New("another error"), Unknown, ""},
	} {
		if got, text := cause(fmt.Errorf("wrapped: %w", tt.err), "h"); got != tt.want || text != tt.text {
			t.Errorf("cause(%v) = %d, %q; want %d, %q", tt.err, got, text, tt.want, tt.text)
		}
	}
}

// TestTimedOut checks the error for a server that accepts connections but never answers.
func TestTimedOut(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	c.http.Transport.(*http.Transport).ResponseHeaderTimeout = 10 * time.Millisecond
	everyCall(t, c, func(call string, err error) {
		var u *Unreachable
		if !errors.As(err, &u) || u.Cause != TimedOut || !strings.HasSuffix(err.Error(), ": timed out: no answer within 30s") {
			t.Errorf("%s: %v", call, err)
		}
	})
}

// answerWith starts a server that reads from each connection once, writes answer and closes
// the connection. It returns the server's address.
func answerWith(t *testing.T, answer string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conn.Read(make([]byte, 4096))
			io.WriteString(conn, answer)
			conn.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-ended })
	return l.Addr().String()
}
