// Package client speaks to a broker as its users do: it publishes by POST,
// subscribes by server-sent events or MQTT 5 over WebSocket, and manages signing
// keys through the admin API. It is what the commands of the command line are
// made of, and knows of the server only what the wire shows.
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

// requestTimeout bounds a request and its answer, streams excepted, and the
// opening of a stream.
const requestTimeout = 30 * time.Second

// MaxMessageBytes is the size of the largest message that any server can be
// configured to take.
const MaxMessageBytes = 16 << 20

// Client speaks to one server. Its methods may be called at the same time.
type Client struct {
	base *url.URL
	http *http.Client
}

// New returns a client of the server at an address such as "http://127.0.0.1:7676", or
// "127.0.0.1:7676" for the same. A path in it is put before the server's own paths. The
// server's certificate is checked against the authorities in roots; nil means those of
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
		return nil, fmt.Errorf("server %q is no address of a server; it takes http://HOST:PORT or https://HOST", server)
	}
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.DisableCompression = true // it would hold back events
	t.ResponseHeaderTimeout = requestTimeout
	t.TLSHandshakeTimeout = requestTimeout
	if roots != nil {
		t.TLSClientConfig = &tls.Config{RootCAs: roots}
	}
	return &Client{base: u, http: &http.Client{
		Transport: t,
		// A redirect would take the token to somebody else.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// Close lets idle connections go.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Error is what a server answers in place of what was asked for.
type Error struct {
	// Status is the HTTP status; 200 for what a stream says, 0 with MQTT.
	Status int
	// Condition is that of a stream-error, or the one that stands for an MQTT
	// reason, or Foreign; else empty.
	Condition string
	// Text is the server's line of text, or what stands for it.
	Text string
}

func (e *Error) Error() string { return e.Text }

// The conditions of an [Error] after which coming back makes no sense.
const (
	BadRequest   = "bad-request"
	Forbidden    = "forbidden"
	TokenExpired = "token-expired"
	TokenRevoked = "token-revoked"
	TakenOver    = "taken-over" // another client has the client identifier
	Foreign      = "foreign"    // not the answer of a Pub/Sub server
)

// request makes a request for a path below the server's address. The elements
// of the path are escaped.
func (c *Client) request(ctx context.Context, method string, query url.Values, body io.Reader, path ...string) (*http.Request, error) {
	escaped := make([]string, len(path))
	for i, p := range path {
		escaped[i] = url.PathEscape(p)
	}
	u := c.base.JoinPath(escaped...)
	u.RawQuery = query.Encode()
	return http.NewRequestWithContext(ctx, method, u.String(), body)
}

// do sends a request whose answer is short and returns that, with its body of at
// most limit bytes. An answer other than 2xx is an [*Error].
func (c *Client) do(req *http.Request, limit int64) (*http.Response, []byte, error) {
	ctx, cancel := context.WithTimeout(req.Context(), requestTimeout)
	defer cancel()
	resp, err := c.http.Do(req.WithContext(ctx))
	if err != nil {
		return nil, nil, c.unreachable(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		return nil, nil, c.refusal(resp)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil {
		return nil, nil, c.unreachable(err)
	}
	if int64(len(body)) > limit {
		return nil, nil, c.foreign(resp)
	}
	return resp, body, nil
}

// refusal returns the error of an answer other than 2xx. It shows only plain text,
// because the page of a proxy says less than its status.
func (c *Client) refusal(resp *http.Response) error {
	e := &Error{Status: resp.StatusCode, Text: statusText(resp)}
	if to := resp.Header.Get("Location"); resp.StatusCode/100 == 3 && to != "" {
		e.Text += ": the server is at " + oneLine(to)
		return e
	}
	line := ""
	if resp.Body != nil {
		body, err := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
		if c.base.Scheme == "http" && tellsOfTLS(resp.StatusCode, string(body)) {
			return &Unreachable{c.base.String(), NeedsTLS, errors.New("the port speaks TLS (https), not http")}
		}
		if err == nil && mediaType(resp) == "text/plain" {
			line = oneLine(string(body))
		}
	}
	switch {
	// A Pub/Sub server sends these with a text of its own, or never, and proxies do not
	// make them up.
	case resp.StatusCode == http.StatusNotFound && line != "Not Found",
		resp.StatusCode == http.StatusMethodNotAllowed && line != "Method Not Allowed",
		resp.StatusCode == http.StatusNotImplemented:
		return c.foreign(resp)
	case line != "":
		e.Text = line
	}
	return e
}

// foreign returns the error of an answer that no Pub/Sub server gives.
func (c *Client) foreign(resp *http.Response) error {
	text := fmt.Sprintf("%s is no Pub/Sub server: it answers %s", c.base, statusText(resp))
	if t := mediaType(resp); t != "" {
		text += " (" + oneLine(t) + ")"
	}
	return &Error{Status: resp.StatusCode, Condition: Foreign, Text: text}
}

func statusText(resp *http.Response) string {
	return strings.TrimSpace(fmt.Sprintf("%d %s", resp.StatusCode, http.StatusText(resp.StatusCode)))
}

// mediaType returns the type of the body, without parameters.
func mediaType(resp *http.Response) string {
	t, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";")
	return strings.ToLower(strings.TrimSpace(t))
}

// oneLine returns the first line of s without anything that a terminal would
// obey, cut after 300 code points.
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
