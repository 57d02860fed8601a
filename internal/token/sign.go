package token

import (
	"errors"
	"fmt"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"pubsub"
)

// Claims are the claims of a new token.
type Claims struct {
	// Read and Write are the topics that the token allows subscribing to and publishing
	// to.
	Read, Write []string
	// Subject is the subject of the token, or empty.
	Subject string
	// Issued and Expires are truncated to seconds. The zero time omits the claim.
	Issued, Expires time.Time
}

// Sign returns a token with the claims c, signed with key. It fails if the key has no id or
// no value, or if the token would be longer than [MaxBytes].
func Sign(key pubsub.Key, c Claims) (string, error) {
	if key.ID == "" || key.Value == "" {
		return "", errors.New("token: a signing key needs an id and a value")
	}
	m := jwt.MapClaims{
		claimRead:  append([]string{}, c.Read...), // never null
		claimWrite: append([]string{}, c.Write...),
	}
	if c.Subject != "" {
		m["sub"] = c.Subject
	}
	if !c.Issued.IsZero() {
		m["iat"] = c.Issued.Unix()
	}
	if !c.Expires.IsZero() {
		m["exp"] = c.Expires.Unix()
	}
	t := jwt.NewWithClaims(jwt.SigningMethodHS256, m)
	t.Header["kid"] = key.ID
	raw, err := t.SignedString([]byte(key.Value))
	if err != nil {
		return "", fmt.Errorf("token: sign: %w", err)
	}
	if len(raw) > MaxBytes {
		return "", fmt.Errorf("token: %d bytes are more than the maximum of %d: use fewer topics", len(raw), MaxBytes)
	}
	return raw, nil
}
