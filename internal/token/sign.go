package token

import (
	"errors"
	"fmt"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"pubsub"
)

// Claims is what a token is to say.
type Claims struct {
	// Read and Write are the topics to subscribe to and to publish to.
	Read, Write []string
	// Subject names whom the token is for; empty for nobody in particular.
	Subject string
	// Issued and Expires are cut to whole seconds; a zero time leaves the claim out.
	Issued, Expires time.Time
}

// Sign returns a token with claims c, signed with key. It fails if the key is
// empty, or if the token would be longer than [MaxBytes].
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
		return "", fmt.Errorf("token: %d bytes, and brokers refuse more than %d: name fewer topics", len(raw), MaxBytes)
	}
	return raw, nil
}
