// Package token turns signed tokens (JWT, RFC 7519, with HMAC SHA-256) into
// grants, and makes them.
package token

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
	"unique"

	"github.com/golang-jwt/jwt/v5"

	"pubsub"
)

const (
	// Leeway is how far the clocks of a signer and a broker may be apart: a token
	// counts from that long before its nbf until that long after its exp.
	Leeway = 30 * time.Second
	// MaxBytes is the length of the longest token that is looked at.
	MaxBytes = 8 << 10
)

// The claims that say what a token allows: arrays of topics.
const (
	claimRead  = "x-fastly-read"
	claimWrite = "x-fastly-write"
)

// ErrInvalid says that a token is refused. The errors that wrap it say why, to
// the operator; a client is to learn nothing but that.
var ErrInvalid = errors.New("token: invalid")

// errUnsigned is one error for two cases: who tries kids must not learn which
// exist.
var errUnsigned = fmt.Errorf("%w: not signed by a known key", ErrInvalid)

// Verifier checks tokens. Its methods may be called at the same time. It must not
// be copied or changed once it has been used.
type Verifier struct {
	// Key returns the value of the signing key that kid names, and
	// [pubsub.ErrKeyNotFound] if there is none. Any other error means that it
	// could not be looked up. kid is any string that a stranger has sent, of 1 to
	// [MaxBytes] bytes.
	Key func(ctx context.Context, kid string) (value string, err error)
	// RequireExp refuses tokens without exp.
	RequireExp bool
	// EnforceExpiry has grants expire with their tokens.
	EnforceExpiry bool

	recent recent
}

// parser checks alg before it asks for the key. The times are checked here
// instead: its own arithmetic overflows on huge numbers.
var parser = jwt.NewParser(
	jwt.WithValidMethods([]string{jwt.SigningMethodHS256.Alg()}),
	jwt.WithStrictDecoding(),
	jwt.WithoutClaimsValidation(),
)

// Verify returns what the token raw allows at now; the grant may be shared and must
// not be changed. An error that is [ErrInvalid] refuses the token; any other says
// that its key could not be looked up.
//
// The secret is the bytes of the key's value as they stand. Expires of the grant
// is exp and [Leeway], or zero if the token has no exp, one too far away to be a
// time, or if expiry is not enforced. Claims that are not named here are the
// business of others: iat, too, is only information (RFC 7519 section 4.1.6), and
// a token from a clock that is ahead works.
func (v *Verifier) Verify(ctx context.Context, raw string, now time.Time) (*pubsub.Grant, error) {
	if len(raw) > MaxBytes {
		return nil, invalid("longer than %d bytes", MaxBytes)
	}
	if strings.ContainsAny(raw, "\r\n") { // encoding/base64 would skip them
		return nil, invalid("malformed")
	}
	id := sha256.Sum256([]byte(raw))
	if t := v.recent.find(id); t != nil {
		// The signature is good as long as the key is the same.
		if secret, err := v.Key(ctx, t.grant.KeyID); err == nil && secret == t.secret {
			return v.admit(t, now)
		}
	}
	var kid, secret string
	var keyErr error
	var c claims
	_, err := parser.ParseWithClaims(raw, &c, func(t *jwt.Token) (any, error) {
		kid, secret, keyErr = v.secret(ctx, t)
		return []byte(secret), keyErr
	})
	switch {
	case keyErr != nil:
		return nil, keyErr
	case errors.Is(err, jwt.ErrSignatureInvalid):
		return nil, errUnsigned
	case err != nil:
		return nil, invalid("malformed, or its alg is not HS256")
	}
	t, err := v.read(kid, c.MapClaims)
	if err != nil {
		return nil, err
	}
	t.secret = secret
	g, err := v.admit(t, now)
	if err == nil {
		v.recent.add(id, t)
	}
	return g, err
}

// secret returns the kid of t's header and its key. Its error is Verify's.
func (v *Verifier) secret(ctx context.Context, t *jwt.Token) (kid, secret string, err error) {
	if _, ok := t.Header["crit"]; ok {
		return "", "", invalid("the crit header asks for extensions, and none is known")
	}
	kid, _ = t.Header["kid"].(string)
	if kid == "" {
		return "", "", invalid("the kid header must name a signing key")
	}
	if strings.ContainsRune(kid, utf8.RuneError) {
		head, _, _ := strings.Cut(t.Raw, ".")
		if b, err := base64.RawURLEncoding.DecodeString(head); err != nil || !utf8.Valid(b) || loneSurrogateIn(b, "kid") {
			return "", "", invalid("the kid header is not valid Unicode")
		}
	}
	secret, err = v.Key(ctx, kid)
	switch {
	case errors.Is(err, pubsub.ErrKeyNotFound):
		return "", "", errUnsigned
	case err != nil:
		return "", "", fmt.Errorf("token: look up the signing key: %w", err)
	case secret == "":
		return "", "", errUnsigned // anybody can sign with an empty secret
	}
	return kid, secret, nil
}

// signed is a token whose signature is good.
type signed struct {
	grant    *pubsub.Grant
	secret   string // it was signed with
	nbf, exp time.Time
	hasExp   bool
}

// read checks the claims of a token whose signature is good.
func (v *Verifier) read(kid string, c jwt.MapClaims) (*signed, error) {
	if c == nil {
		return nil, invalid("the claims are no JSON object")
	}
	read, err := topics(c, claimRead)
	if err != nil {
		return nil, err
	}
	write, err := topics(c, claimWrite)
	if err != nil {
		return nil, err
	}
	g := pubsub.NewGrant(read, write)
	g.KeyID = unique.Make(kid).Value() // not one for each client
	t := &signed{grant: &g}
	if sub, ok := c["sub"]; ok {
		if g.Subject, ok = sub.(string); !ok {
			return nil, invalid("sub must be a string")
		}
	}
	if t.nbf, _, err = date(c, "nbf"); err != nil {
		return nil, err
	}
	if t.exp, t.hasExp, err = date(c, "exp"); err != nil {
		return nil, err
	}
	if t.hasExp && v.EnforceExpiry && t.exp.Before(farFuture) {
		g.Expires = t.exp.Add(Leeway)
	}
	return t, nil
}

// admit checks the times of t.
func (v *Verifier) admit(t *signed, now time.Time) (*pubsub.Grant, error) {
	switch {
	case now.Before(t.nbf.Add(-Leeway)):
		return nil, invalid("not valid yet (nbf)")
	case !t.hasExp && v.RequireExp:
		return nil, invalid("exp is missing and require-exp is set")
	case t.hasExp && !now.Before(t.exp.Add(Leeway)):
		return nil, invalid("expired (exp)")
	}
	return t.grant, nil
}

// topics returns the array of topics that a claim holds, none if it is missing.
func topics(c jwt.MapClaims, name string) ([]string, error) {
	claim, ok := c[name]
	if !ok {
		return nil, nil
	}
	array, ok := claim.([]any)
	if !ok {
		return nil, invalid("%s must be an array of strings", name)
	}
	list := make([]string, len(array))
	for i, e := range array {
		if list[i], ok = e.(string); !ok {
			return nil, invalid("%s must be an array of strings", name)
		}
	}
	return list, nil
}

// Dates outside of these are cut to them: time.Time overflows far outside.
const (
	minSeconds = -1 << 53
	maxSeconds = 1 << 53
)

var farFuture = time.Unix(maxSeconds, 0)

// date returns the time that a claim holds (NumericDate, RFC 7519 section 2).
func date(c jwt.MapClaims, name string) (at time.Time, ok bool, err error) {
	claim, ok := c[name]
	if !ok {
		return time.Time{}, false, nil
	}
	seconds, ok := claim.(float64)
	if !ok {
		return time.Time{}, false, invalid("%s must be a number of seconds", name)
	}
	seconds = min(max(seconds, minSeconds), maxSeconds)
	whole := int64(seconds)
	return time.Unix(whole, int64((seconds-float64(whole))*1e9)), true, nil
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrInvalid}, args...)...)
}

// claims keeps a claims set as it was sent. Other than a struct, a map compares
// names exactly, case included.
type claims struct {
	jwt.MapClaims // nil if the token has something other than an object
}

// UnmarshalJSON is called by the parser. Of several claims of one name the last
// counts (RFC 7519 section 4).
func (c *claims) UnmarshalJSON(b []byte) error {
	if !utf8.Valid(b) {
		return errors.New("not UTF-8") // else a topic would turn into another one
	}
	if err := json.Unmarshal(b, &c.MapClaims); err != nil {
		return err
	}
	if loneSurrogateIn(b, claimRead, claimWrite, "sub") {
		return errors.New("not Unicode") // for the same reason
	}
	return nil
}
