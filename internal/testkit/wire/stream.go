package wire

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http/httputil"
	"net/textproto"
	"net/url"
	"regexp"
	"strconv"
	"strings"
)

// Stream is a response that is a stream of server-sent events, or an answer in its
// place, such as a WebSocket or an error.
type Stream struct {
	Conn   net.Conn
	Status string // the status line
	Header textproto.MIMEHeader
	Body   *bufio.Reader // without the framing of chunks
	// chunked is what Body reads a chunked body from, or nil.
	chunked *bufio.Reader
}

// Event is an event of a stream, that is, the lines before a blank line.
type Event struct {
	Name, Data, ID, Retry string
	HasID                 bool
	Raw                   string // all bytes, without the blank line
}

// Request sends a GET over a connection of its own and reads the head of the
// response. Header lines are sent as they are.
func Request(conn net.Conn, target string, header ...string) (*Stream, error) {
	req := "GET " + target + " HTTP/1.1\r\nHost: broker\r\n"
	for _, h := range header {
		req += h + "\r\n"
	}
	if _, err := io.WriteString(conn, req+"\r\n"); err != nil {
		return nil, err
	}
	return readHead(conn)
}

// RequestEvents sends GET /events with the query and a token, and with lastID as Last-Event-ID
// unless it is empty. A response without status 200 is an error.
func RequestEvents(conn net.Conn, query url.Values, token, lastID string) (*Stream, error) {
	header := []string{"Authorization: Bearer " + token}
	if lastID != "" {
		header = append(header, "Last-Event-ID: "+lastID)
	}
	s, err := Request(conn, "/events?"+query.Encode(), header...)
	if err != nil {
		return nil, err
	}
	if s.Status != "HTTP/1.1 200 OK" {
		return nil, fmt.Errorf("GET /events: %s", s.Status)
	}
	return s, nil
}

// readHead reads the head of a response.
func readHead(conn net.Conn) (*Stream, error) {
	s := &Stream{Conn: conn, Body: bufio.NewReader(conn)}
	tp := textproto.NewReader(s.Body)
	var err error
	if s.Status, err = tp.ReadLine(); err != nil {
		return nil, fmt.Errorf("head of a response: %w", err)
	}
	if s.Header, err = tp.ReadMIMEHeader(); err != nil {
		return nil, fmt.Errorf("head of a response: %w", err)
	}
	if s.Header.Get("Transfer-Encoding") == "chunked" {
		s.chunked = s.Body
		s.Body = bufio.NewReader(httputil.NewChunkedReader(s.chunked))
	}
	return s, nil
}

// Read returns the next event. It is stricter than the standard, and
// accepts only known fields, no comments, and lines that end in LF alone.
func (s *Stream) Read() (e Event, err error) {
	var data []string
	for {
		line, err := s.Body.ReadBytes('\n')
		if err != nil {
			e.Raw += string(line)
			return e, err
		}
		if bytes.IndexByte(line, '\r') >= 0 {
			return e, fmt.Errorf("CR in the line %q", line)
		}
		if len(line) == 1 {
			e.Data = strings.Join(data, "\n")
			return e, nil
		}
		e.Raw += string(line)
		name, value, _ := strings.Cut(string(line[:len(line)-1]), ":")
		value = strings.TrimPrefix(value, " ")
		switch name {
		case "event":
			e.Name = value
		case "data":
			data = append(data, value)
		case "id":
			e.ID, e.HasID = value, true
		case "retry":
			e.Retry = value
		default:
			return e, fmt.Errorf("unknown field in %.200q", line)
		}
	}
}

// The bounds of a retry field, in milliseconds.
var (
	soon      = [2]int{1000, 10_000}
	later     = [2]int{5000, 15_000}
	muchLater = [2]int{60_000, 180_000}
)

// retryOf holds the bounds for each condition of a stream-error.
var retryOf = map[string][2]int{
	"bad-request":           muchLater,
	"forbidden":             muchLater,
	"token-expired":         soon,
	"token-revoked":         soon,
	"too-many-connections":  later,
	"internal-server-error": later,
}

// IsError reports whether raw is the stream-error of condition and text, which is
// written as in JSON, with a retry field within its bounds.
func IsError(raw, condition, text string) bool {
	rest, ok := strings.CutPrefix(raw, "event: stream-error\nretry: ")
	retry, rest, _ := strings.Cut(rest, "\n")
	return ok && isWithin(retry, retryOf[condition]) && rest == `data: {"condition":"`+condition+`","text":"`+text+`"}`+"\n"
}

// IsDrain reports whether e sends the client to another server: a keep-alive with a
// retry field of 1 to 10 s.
func IsDrain(e Event) bool {
	return e.Raw == "event: keep-alive\nretry: "+e.Retry+"\ndata: \n" && isWithin(e.Retry, soon)
}

func isWithin(retry string, bounds [2]int) bool {
	ms, err := strconv.Atoi(retry)
	return err == nil && strconv.Itoa(ms) == retry && bounds[0] <= ms && ms <= bounds[1]
}

var retryField = regexp.MustCompile(`(?m)^retry: \d+\n`)

// WithoutRetry returns events without their retry fields, which are random.
func WithoutRetry(events string) string { return retryField.ReplaceAllString(events, "") }
