// Package client is the client of the command line: it publishes by POST, subscribes by
// server-sent events or MQTT 5 over WebSocket, and manages signing keys through the admin
// API. It shares no code with the server but the codecs.
package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode"
)

// requestTimeout bounds a request with its response. For a stream it bounds only the time
// until the response begins.
const requestTimeout = 30 * time.Second

// MaxMessageBytes is the size of the largest message that a server can be configured to
// accept.
const MaxMessageBytes = 16 << 20

// Client is a client of one server. Its methods are safe for concurrent use.
type Client struct {
	base *url.URL
	http *http.Client
}

// New returns a client of the server at an address such as "http://127.0.0.1:7676", or
// "127.0.0.1:7676" for the same. A path in the address is a prefix of the server's paths.
// The server's certificate is checked against the authorities in roots; nil means those of
// the system. New does not connect.
func New(server string, roots *x509.CertPool) (*Client, error) {
	server = strings.TrimSpace(server)
	address := server
	if !strings.Contains(address, "://") {
		address = "http://" + address
	}
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		if i := strings.LastIndexByte(server, '@'); i >= 0 {
			server = "…" + server[i:] // the part before it may contain a password
		}
		return nil, fmt.Errorf("server %q is not allowed; it takes an address, like http://HOST:PORT or https://HOST", server)
	}
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.DisableCompression = true // compression would delay events
	t.ResponseHeaderTimeout = requestTimeout
	t.TLSHandshakeTimeout = requestTimeout
	if roots != nil {
		t.TLSClientConfig = &tls.Config{RootCAs: roots}
	}
	return &Client{base: u, http: &http.Client{
		Transport: t,
		// Following a redirect could send the token to another server.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// Close closes idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Error is an error that a server has reported.
type Error struct {
	// Status is the HTTP status: 200 for an error within a stream, 0 with MQTT.
	Status int
	// Condition is the condition of a stream-error, the corresponding one for an MQTT
	// reason code, or Foreign. It is empty for other responses.
	Condition string
	// Text is the server's message in one line, or a replacement for it.
	Text string
}

func (e *Error) Error() string { return e.Text }

// The conditions of an [Error] that a retry cannot change.
const (
	BadRequest   = "bad-request"
	Forbidden    = "forbidden"
	TokenExpired = "token-expired"
	TokenRevoked = "token-revoked"
	TakenOver    = "taken-over" // another client has the client identifier
	Foreign      = "foreign"    // not the response of a Pub/Sub server
)

// request returns a request for a path below the server's address. It escapes the elements
// of the path.
func (c *Client) request(ctx context.Context, method string, query url.Values, body io.Reader, path ...string) (*http.Request, error) {
	escaped := make([]string, len(path))
	for i, p := range path {
		escaped[i] = url.PathEscape(p)
	}
	u := c.base.JoinPath(escaped...)
	u.RawQuery = query.Encode()
	return http.NewRequestWithContext(ctx, method, u.String(), body)
}

// do sends a request and returns the response and its body of at most limit bytes. If the
// status is not 2xx, the error is an [*Error].
func (c *Client) do(req *http.Request, limit int64) (*http.Response, []byte, error) {
	ctx, cancel := context.WithTimeout(req.Context(), requestTimeout)
	defer cancel()
	resp, err := c.http.Do(req.WithContext(ctx))
	if err != nil {
		return nil, nil, c.unreachable(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		return nil, nil, c.responseError(resp)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil {
		return nil, nil, c.unreachable(err)
	}
	if int64(len(body)) > limit {
		return nil, nil, c.foreignError(resp)
	}
	return resp, body, nil
}

// responseError returns the error for a response whose status is not 2xx. It uses the body
// only if that is plain text, because the HTML page of a proxy says less than its status.
func (c *Client) responseError(resp *http.Response) error {
	e := &Error{Status: resp.StatusCode, Text: statusText(resp)}
	if to := resp.Header.Get("Location"); resp.StatusCode/100 == 3 && to != "" {
		e.Text += ": the server is at " + oneLine(to)
		return e
	}
	line := ""
	if resp.Body != nil {
		body, err := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
		if c.base.Scheme == "http" && mentionsTLS(resp.StatusCode, string(body)) {
			return &Unreachable{c.base.String(), NeedsTLS, errors.New("the port speaks TLS (https), not http")}
		}
		if err == nil && mediaType(resp) == "text/plain" {
			line = oneLine(string(body))
		}
	}
	switch {
	// A Pub/Sub server sends these with its own text, or never. A proxy in front of it does
	// not originate them.
	case resp.StatusCode == http.StatusNotFound && line != "Not Found",
		resp.StatusCode == http.StatusMethodNotAllowed && line != "Method Not Allowed",
		resp.StatusCode == http.StatusNotImplemented:
		return c.foreignError(resp)
	case line != "":
		e.Text = line
	}
	return e
}

// foreignError returns the error for a response that no Pub/Sub server sends.
func (c *Client) foreignError(resp *http.Response) error {
	text := fmt.Sprintf("%s is not a Pub/Sub server: it answers %s", c.base, statusText(resp))
	if t := mediaType(resp); t != "" {
		text += " (" + oneLine(t) + ")"
	}
	return &Error{Status: resp.StatusCode, Condition: Foreign, Text: text}
}

func statusText(resp *http.Response) string {
	return strings.TrimSpace(fmt.Sprintf("%d %s", resp.StatusCode, http.StatusText(resp.StatusCode)))
}

// mediaType returns the media type of the body, in lower case and without parameters.
func mediaType(resp *http.Response) string {
	t, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";")
	return strings.ToLower(strings.TrimSpace(t))
}

// oneLine returns the first line of s, at most 300 code points of it, with replacements for
// characters that could control a terminal.
func oneLine(s string) string {
	s, _, _ = strings.Cut(strings.TrimSpace(s), "\n")
	var b strings.Builder
	n := 0
	for _, r := range strings.TrimRight(s, "\r") {
		if n++; n > 300 {
			b.WriteRune('…')
			break
		}
		if unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) {
			r = unicode.ReplacementChar
		}
		b.WriteRune(r)
	}
	return b.String()
}
