package server

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"net/http"
	"strings"

	"pubsub"
	"pubsub/internal/conn"
	"pubsub/internal/token"
)

// secret is a token that is compared in constant time, regardless of its length.
type secret struct {
	set bool
	sum [sha256.Size]byte
}

func newSecret(s string) secret {
	return secret{set: s != "", sum: sha256.Sum256([]byte(s))}
}

func (a *secret) matches(s string) bool {
	sum := sha256.Sum256([]byte(s))
	return subtle.ConstantTimeCompare(a.sum[:], sum[:]) == 1 && a.set
}

// credential is a client's verified token.
type credential struct {
	*pubsub.Grant // shared
	// publisher is a hash of the kid and the subject, or of the token if it has no subject.
	publisher publisher
}

// adminGrant is the grant of the admin token.
var adminGrant = pubsub.Grant{Admin: true}

// authError is the reason why a client is not admitted.
type authError struct {
	kind   authKind
	scheme string // of authScheme
	cause  error  // of authFailed, for the operator
}

type authKind uint8

const (
	authMissing authKind = iota // there is no credential
	authHeader                  // the Authorization header cannot be read
	authScheme                  // its scheme is not Bearer
	authInvalid                 // the token is refused
	authFailed                  // the token could not be checked
)

// Error returns the text that a client sees, except for authMissing, whose text depends on
// where the request may carry a credential.
func (e *authError) Error() string {
	switch e.kind {
	case authMissing:
		return "Missing 'Authorization' header"
	case authHeader:
		return "Invalid 'Authorization' header"
	case authScheme:
		return "Unsupported authorization scheme: " + pubsub.Printable(e.scheme)
	case authInvalid:
		return "Invalid token"
	default:
		return "Auth process failed"
	}
}

// authenticate returns the credential of r: the admin token in Fastly-Key, otherwise the
// token queryAuth if it is not empty, otherwise the Authorization header. A wrong
// Fastly-Key is ignored.
func (s *Server) authenticate(ctx context.Context, r *http.Request, queryAuth string) (credential, *authError) {
	if s.hasAdminKey(r) {
		return credential{Grant: &adminGrant}, nil
	}
	if queryAuth != "" {
		return s.verify(ctx, queryAuth) // the admin token is not read from a query
	}
	raw, err := bearer(r.Header)
	if err != nil {
		return credential{}, err
	}
	return s.authenticateToken(ctx, raw)
}

// authenticateToken verifies raw, which is a Bearer token or an MQTT password.
func (s *Server) authenticateToken(ctx context.Context, raw string) (credential, *authError) {
	if s.admin.matches(raw) {
		return credential{Grant: &adminGrant}, nil
	}
	return s.verify(ctx, raw)
}

func (s *Server) verify(ctx context.Context, raw string) (credential, *authError) {
	g, err := s.verifier.Verify(ctx, raw, s.o.Now())
	if err != nil {
		if errors.Is(err, token.ErrInvalid) {
			s.o.Events.TokenRefused(err)
			return credential{}, &authError{kind: authInvalid}
		}
		s.o.Events.Failed("key lookup failed", err)
		return credential{}, &authError{kind: authFailed, cause: err}
	}
	id := raw
	if g.Subject != "" {
		id = g.KeyID + "\x00" + g.Subject // a token has no NUL
	}
	sum := sha256.Sum256([]byte(id))
	return credential{Grant: g, publisher: publisher(sum[:])}, nil
}

// isAdmin reports whether r carries the admin token in a header.
func (s *Server) isAdmin(r *http.Request) bool {
	if s.hasAdminKey(r) {
		return true
	}
	raw, err := bearer(r.Header)
	return err == nil && s.admin.matches(raw)
}

func (s *Server) hasAdminKey(r *http.Request) bool {
	key := header(r.Header, "Fastly-Key")
	return key != "" && s.admin.matches(key)
}

// header returns the first value of a header that is not empty. Empty headers count as
// absent.
func header(h http.Header, name string) string {
	for _, v := range h[name] {
		if v != "" {
			return v
		}
	}
	return ""
}

// bearer returns the token of the Authorization header (RFC 6750 section 2.1).
func bearer(h http.Header) (string, *authError) {
	var value string
	for _, v := range h["Authorization"] {
		if v == "" {
			continue
		}
		if value != "" {
			return "", &authError{kind: authHeader}
		}
		value = v
	}
	if value == "" {
		return "", &authError{kind: authMissing}
	}
	scheme, rest, ok := strings.Cut(value, " ")
	rest = strings.TrimLeft(rest, " ")
	if !ok || rest == "" || !isToken(scheme) {
		return "", &authError{kind: authHeader}
	}
	if !strings.EqualFold(scheme, "Bearer") {
		return "", &authError{kind: authScheme, scheme: scheme}
	}
	return rest, nil
}

// isToken reports whether s is a token (RFC 9110 section 5.6.2).
func isToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		alnum := '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		if !alnum && strings.IndexByte("!#$%&'*+-.^_`|~", c) < 0 {
			return false
		}
	}
	return s != ""
}

// setKey records the key that admitted c. It reports whether that key is still valid: it
// may have been revoked since the token was checked.
func (s *Server) setKey(c *conn.Conn, kid string) (ok bool) {
	if kid == "" { // the admin token
		return true
	}
	c.SetKey(kid)
	return !s.keys.isRevoked(kid) // checked now, since from here on EndKey finds c
}
