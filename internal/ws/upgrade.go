package ws

import (
	"crypto/sha1"
	"encoding/base64"
	"maps"
	"net/http"
	"slices"
	"strings"
)

// Upgrade is a valid opening handshake.
type Upgrade struct {
	// Subprotocol is "mqtt" if the client offers it, else empty.
	Subprotocol string

	key string // Sec-WebSocket-Key
}

// UpgradeError reports why a request is not a valid opening handshake, and the response
// to send.
type UpgradeError struct {
	// Status is the status code of the response: 400, 405 or 426.
	Status int
	// Text is the reason, for the client.
	Text string
	// Header holds the fields to add to the response, by canonical names. It may be nil.
	Header http.Header
}

func (e *UpgradeError) Error() string { return "websocket handshake: " + e.Text }

// CheckUpgrade checks an opening handshake (RFC 6455 section 4.2.1). It selects the
// subprotocol mqtt if the client offers it, and no subprotocol otherwise. It ignores
// extensions. The error is an [*UpgradeError].
func CheckUpgrade(r *http.Request) (Upgrade, error) {
	switch {
	case r.Method != http.MethodGet:
		return Upgrade{}, &UpgradeError{http.StatusMethodNotAllowed, "Method Not Allowed", http.Header{"Allow": {http.MethodGet}}}
	case r.ProtoMajor != 1 || r.ProtoMinor < 1,
		!hasToken(r.Header["Connection"], "upgrade", strings.EqualFold),
		!hasToken(r.Header["Upgrade"], "websocket", strings.EqualFold):
		return Upgrade{}, upgradeRequired(r)
	}
	if v := r.Header["Sec-Websocket-Version"]; len(v) != 1 || v[0] != "13" {
		return Upgrade{}, upgradeRequired(r)
	}
	keys := r.Header["Sec-Websocket-Key"]
	if len(keys) != 1 || !validKey(keys[0]) {
		return Upgrade{}, &UpgradeError{Status: http.StatusBadRequest, Text: "Invalid 'Sec-WebSocket-Key' header"}
	}
	if r.ContentLength != 0 {
		// A body would be decoded as frames.
		return Upgrade{}, &UpgradeError{Status: http.StatusBadRequest, Text: "A WebSocket handshake has no body"}
	}
	up := Upgrade{key: keys[0]}
	if hasToken(r.Header["Sec-Websocket-Protocol"], "mqtt", exactly) {
		up.Subprotocol = "mqtt"
	}
	return up, nil
}

// upgradeRequired returns the error for a request that does not ask for this version of
// the protocol (RFC 6455 section 4.4, RFC 9110 section 15.5.22).
func upgradeRequired(r *http.Request) *UpgradeError {
	e := &UpgradeError{http.StatusUpgradeRequired, "Upgrade Required", http.Header{"Sec-Websocket-Version": {"13"}}}
	if r.ProtoMajor == 1 {
		// HTTP/2 forbids both fields (RFC 9113 section 8.2.2).
		e.Header["Connection"] = []string{"Upgrade"}
		e.Header["Upgrade"] = []string{"websocket"}
	}
	return e
}

// validKey reports whether s is the Base64 of 16 bytes.
func validKey(s string) bool {
	var raw [18]byte // 24 characters decode to at most 18 bytes
	if len(s) != 24 {
		return false
	}
	n, err := base64.StdEncoding.Decode(raw[:], []byte(s))
	return err == nil && n == 16
}

// hasToken reports whether one of the comma-separated lists in values has token
// (RFC 9110 section 5.6.1).
func hasToken(values []string, token string, equal func(a, b string) bool) bool {
	for _, v := range values {
		for s := range strings.SplitSeq(v, ",") {
			if equal(strings.Trim(s, " \t"), token) {
				return true
			}
		}
	}
	return false
}

func exactly(a, b string) bool { return a == b }

// lineBreaks prevents the value of a field from starting another field.
var lineBreaks = strings.NewReplacer("\r", " ", "\n", " ")

// AppendResponse appends the complete response with status 101 that accepts up, with the
// fields of header (RFC 6455 section 4.2.2). The names in header must be valid. Frames
// follow the response directly.
func AppendResponse(dst []byte, up Upgrade, header http.Header) []byte {
	const guid = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
	accept := sha1.Sum([]byte(up.key + guid))
	dst = append(dst, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "...)
	dst = base64.StdEncoding.AppendEncode(dst, accept[:])
	dst = append(dst, "\r\n"...)
	if up.Subprotocol != "" {
		dst = append(dst, "Sec-WebSocket-Protocol: "...)
		dst = append(dst, up.Subprotocol...)
		dst = append(dst, "\r\n"...)
	}
	names := slices.AppendSeq(make([]string, 0, 16), maps.Keys(header))
	slices.Sort(names)
	for _, name := range names {
		for _, v := range header[name] {
			dst = append(append(append(dst, name...), ": "...), lineBreaks.Replace(v)...)
			dst = append(dst, "\r\n"...)
		}
	}
	return append(dst, "\r\n"...)
}
