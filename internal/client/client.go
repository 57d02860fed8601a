// Package client speaks to a broker as its users do: it publishes by POST,
// subscribes by server-sent events or MQTT 5 over WebSocket, and manages signing
// keys through the admin API. It is what the commands of the command line are
// made of, and knows of the server only what the wire shows.
package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
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

// New returns a client of the server at an address such as
// "http://127.0.0.1:7676"; a path in it goes before the server's own. It does
// not connect.
func New(server string) (*Client, error) {
	u, err := url.Parse(server)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return nil, fmt.Errorf("server %q is no address of a server; it takes http://HOST:PORT or https://HOST", server)
	}
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.DisableCompression = true // it would hold back events
	t.ResponseHeaderTimeout = requestTimeout
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
	// reason; else empty.
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
)

// Unreachable says that a server cannot be spoken to.
type Unreachable struct {
	Server string // its address
	Err    error
}

func (e *Unreachable) Error() string { return "cannot reach " + e.Server + ": " + e.Err.Error() }

func (e *Unreachable) Unwrap() error { return e.Err }

// unreachable wraps an error of net/http, without the URL that it repeats.
func (c *Client) unreachable(err error) error {
	if ue := (*url.Error)(nil); errors.As(err, &ue) {
		err = ue.Err
	}
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("no answer within %s", requestTimeout)
	}
	return &Unreachable{c.base.String(), err}
}

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
func (c *Client) do(req *http.Request, limit int64) (http.Header, []byte, error) {
	ctx, cancel := context.WithTimeout(req.Context(), requestTimeout)
	defer cancel()
	resp, err := c.http.Do(req.WithContext(ctx))
	if err != nil {
		return nil, nil, c.unreachable(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		return nil, nil, refusal(resp)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil {
		return nil, nil, c.unreachable(err)
	}
	if int64(len(body)) > limit {
		return nil, nil, fmt.Errorf("the answer of %s is too long", c.base)
	}
	return resp.Header, body, nil
}

// refusal makes an error of an answer. Only plain text is shown: the page of a
// proxy says less than its status.
func refusal(resp *http.Response) *Error {
	e := &Error{Status: resp.StatusCode, Text: fmt.Sprintf("%d %s", resp.StatusCode, http.StatusText(resp.StatusCode))}
	if to := resp.Header.Get("Location"); resp.StatusCode/100 == 3 && to != "" {
		e.Text += ": the server is at " + oneLine(to)
		return e
	}
	if t, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type")); err != nil || t != "text/plain" || resp.Body == nil {
		return e
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
	if line := oneLine(string(body)); err == nil && line != "" {
		e.Text = line
	}
	return e
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
		if unicode.IsControl(r) {
			r = unicode.ReplacementChar
		}
		b.WriteRune(r)
	}
	return b.String()
}
