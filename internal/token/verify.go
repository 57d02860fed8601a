// Package token verifies and makes signed tokens: JWT (RFC 7519) with HMAC SHA-256. A
// verified token becomes a [pubsub.Grant].
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
	// Leeway is the tolerance for the clocks of signer and broker. A token is valid from
	// Leeway before its nbf until Leeway after its exp.
	Leeway = 30 * time.Second
	// MaxBytes is the maximum length of a token, in bytes.
	MaxBytes = 8 << 10
)

// The claims that grant permissions. Their values are arrays of topics.
const (
	claimRead  = "x-fastly-read"
	claimWrite = "x-fastly-write"
)

// ErrInvalid means that a token is refused. Errors that wrap it have the reason for the
// operator. A client must not learn the reason.
var ErrInvalid = errors.New("token: invalid")

// errUnsigned is the error for both an unknown kid and a wrong signature, so that clients
// cannot find out which kids exist.
var errUnsigned = fmt.Errorf("%w: not signed by a known key", ErrInvalid)

// Verifier verifies tokens. Its methods may be called concurrently. It must not be copied or
// changed after first use.
type Verifier struct {
	// Key returns the value of the signing key with the id kid, or
	// [pubsub.ErrKeyNotFound]. Any other error means that the key could not be looked
	// up. kid comes from an untrusted client and has 1 to [MaxBytes] bytes.
	Key func(ctx context.Context, kid string) (value string, err error)
	// RequireExp refuses tokens without exp.
	RequireExp bool
	// EnforceExpiry sets the Expires of grants.
	EnforceExpiry bool

	recent recent
}

// parser checks alg before it looks up the key. It does not check the times, because its
// arithmetic overflows for huge numbers; checkTimes does.
var parser = jwt.NewParser(
	jwt.WithValidMethods([]string{jwt.SigningMethodHS256.Alg()}),
	jwt.WithStrictDecoding(),
	jwt.WithoutClaimsValidation(),
)

// Verify verifies the token raw at the time now and returns its grant. The grant may be
// shared and must not be changed. The error is [ErrInvalid] if the token is refused. Any
// other error means that its key could not be looked up.
//
// The secret is the value of the key, byte for byte. The Expires of the grant is exp plus
// [Leeway]. It is zero if the token has no exp or one beyond the range of time.Time, or if
// EnforceExpiry is not set. Other claims are ignored, iat included (RFC 7519 section 4.1.6),
// so a token from a clock that is ahead is valid.
func (v *Verifier) Verify(ctx context.Context, raw string, now time.Time) (*pubsub.Grant, error) {
	if len(raw) > MaxBytes {
		return nil, invalid("longer than %d bytes", MaxBytes)
	}
	if strings.ContainsAny(raw, "\r\n") { // encoding/base64 would ignore them
		return nil, invalid("malformed")
	}
	id := sha256.Sum256([]byte(raw))
	if t := v.recent.find(id); t != nil {
		// The signature is valid if the key has not changed.
		if secret, err := v.Key(ctx, t.grant.KeyID); err == nil && secret == t.secret {
			return v.checkTimes(t, now)
		}
	}
	var kid, secret string
	var keyErr error
	var c claims
	_, err := parser.ParseWithClaims(raw, &c, func(t *jwt.Token) (any, error) {
		kid, secret, keyErr = v.lookUp(ctx, t)
		return []byte(secret), keyErr
	})
	switch {
	case keyErr != nil:
		return nil, keyErr
	case errors.Is(err, jwt.ErrSignatureInvalid):
		return nil, errUnsigned
	case err != nil:
		return nil, invalid("malformed, or alg is not HS256")
	}
	t, err := v.checkClaims(kid, c.MapClaims)
	if err != nil {
		return nil, err
	}
	t.secret = secret
	g, err := v.checkTimes(t, now)
	if err == nil {
		v.recent.add(id, t)
	}
	return g, err
}

// lookUp returns the kid in the header of t, and the value of that key.
func (v *Verifier) lookUp(ctx context.Context, t *jwt.Token) (kid, secret string, err error) {
	if _, ok := t.Header["crit"]; ok {
		return "", "", invalid("the crit header requires extensions, and none is supported")
	}
	kid, _ = t.Header["kid"].(string)
	if kid == "" {
		return "", "", invalid("the kid header must name a signing key")
	}
	if strings.ContainsRune(kid, utf8.RuneError) {
		head, _, _ := strings.Cut(t.Raw, ".")
		if b, err := base64.RawURLEncoding.DecodeString(head); err != nil || !utf8.Valid(b) || valueHasLoneSurrogate(b, "kid") {
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
		return "", "", errUnsigned // every client could sign with an empty secret
	}
	return kid, secret, nil
}

// verified is a token with a valid signature.
type verified struct {
	grant    *pubsub.Grant
	secret   string // the value of the key
	nbf, exp time.Time
	hasExp   bool
}

// checkClaims checks the claims c of a token with a valid signature.
func (v *Verifier) checkClaims(kid string, c jwt.MapClaims) (*verified, error) {
	if c == nil {
		return nil, invalid("the claims are not a JSON object")
	}
	read, err := topicClaim(c, claimRead)
	if err != nil {
		return nil, err
	}
	write, err := topicClaim(c, claimWrite)
	if err != nil {
		return nil, err
	}
	g := pubsub.NewGrant(read, write)
	g.KeyID = unique.Make(kid).Value() // share one string between all clients
	t := &verified{grant: &g}
	if sub, ok := c["sub"]; ok {
		if g.Subject, ok = sub.(string); !ok {
			return nil, invalid("sub must be a string")
		}
	}
	if t.nbf, _, err = dateClaim(c, "nbf"); err != nil {
		return nil, err
	}
	if t.exp, t.hasExp, err = dateClaim(c, "exp"); err != nil {
		return nil, err
	}
	if t.hasExp && v.EnforceExpiry && t.exp.Before(farFuture) {
		g.Expires = t.exp.Add(Leeway)
	}
	return t, nil
}

// checkTimes returns the grant of t if t is valid at the time now.
func (v *Verifier) checkTimes(t *verified, now time.Time) (*pubsub.Grant, error) {
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

// topicClaim returns the topics in a claim. There are none if the claim is missing.
func topicClaim(c jwt.MapClaims, name string) ([]string, error) {
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

// The range of dates. Dates outside are moved to its ends, because time.Time would overflow.
const (
	minSeconds = -1 << 53
	maxSeconds = 1 << 53
)

var farFuture = time.Unix(maxSeconds, 0)

// dateClaim returns the time in a claim (NumericDate, RFC 7519 section 2), if there is one.
func dateClaim(c jwt.MapClaims, name string) (at time.Time, ok bool, err error) {
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

// claims is a claims set. It is a map because package json would ignore the case of the
// names if it were a struct.
type claims struct {
	jwt.MapClaims // nil if the claims are JSON null
}

// UnmarshalJSON is called by the parser. If a name is repeated, the last claim counts (RFC
// 7519 section 4).
func (c *claims) UnmarshalJSON(b []byte) error {
	if !utf8.Valid(b) {
		return errors.New("not UTF-8") // otherwise a topic would change into another one
	}
	if err := json.Unmarshal(b, &c.MapClaims); err != nil {
		return err
	}
	if valueHasLoneSurrogate(b, claimRead, claimWrite, "sub") {
		return errors.New("not Unicode") // for the same reason
	}
	return nil
}
