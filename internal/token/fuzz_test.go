package token_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"pubsub/internal/token"
)

// FuzzVerify verifies arbitrary tokens.
func FuzzVerify(f *testing.F) {
	f.Add(signed(`{"x-fastly-read":["t"]}`))
	f.Add(signed(`{"exp":1e300}`))
	f.Add(sign("", `{"alg":"none"}`, `{}`))
	f.Add("..")
	f.Fuzz(func(t *testing.T, raw string) {
		checkAgainstLibrary(t, raw)
	})
}

// FuzzSigned verifies arbitrary headers and claims with a valid signature, to reach the
// checks that follow the signature's.
func FuzzSigned(f *testing.F) {
	f.Add(header, `{"x-fastly-read":["t"],"x-fastly-write":[],"exp":1750000001,"nbf":1,"sub":"s"}`)
	f.Add(`{"alg":"HS256","kid":"key-1","crit":[]}`, `{"exp":-1e300,"nbf":1e300}`)
	f.Add(`{"alg":"none","alg":"HS256","kid":"key-1"}`, `null`)
	f.Add(`{"alg":"HS256","kid":"\u006bey-1"}`, `{"x-fastly-read":["t",1]}`)
	f.Fuzz(func(t *testing.T, header, claims string) {
		checkAgainstLibrary(t, sign(secret, header, claims))
	})
}

// checkAgainstLibrary verifies raw. If it is accepted, golang-jwt must accept it by its own
// rules, and a second implementation with the standard library must agree.
func checkAgainstLibrary(t *testing.T, raw string) {
	g, err := (&token.Verifier{Key: keys, EnforceExpiry: true}).Verify(context.Background(), raw, now)
	if err != nil {
		if !errors.Is(err, token.ErrInvalid) {
			t.Fatalf("%q: %v", raw, err)
		}
		return
	}
	parts := strings.Split(raw, ".")
	if len(raw) > token.MaxBytes || len(parts) != 3 {
		t.Fatalf("accepted %q", raw)
	}
	var part [2]map[string]any
	for i := range part {
		b, err := base64.RawURLEncoding.Strict().DecodeString(parts[i])
		if err != nil || json.Unmarshal(b, &part[i]) != nil || part[i] == nil {
			t.Fatalf("accepted %q", raw)
		}
	}
	head, claims := part[0], part[1]
	if _, crit := head["crit"]; crit || head["alg"] != "HS256" || head["kid"] != kid || g.KeyID != kid {
		t.Fatalf("accepted with header %v", head)
	}
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(parts[0] + "." + parts[1]))
	if parts[2] != b64(string(mac.Sum(nil))) {
		t.Fatalf("accepted with a wrong signature: %q", raw)
	}
	for _, name := range []string{"exp", "nbf"} {
		if f, ok := claims[name].(float64); ok && (f > 1e15 || f < -1e15) {
			return // the library's arithmetic overflows
		}
	}
	p := jwt.NewParser(jwt.WithValidMethods([]string{"HS256"}), jwt.WithLeeway(token.Leeway), jwt.WithTimeFunc(func() time.Time { return now }))
	_, err = p.Parse(raw, func(*jwt.Token) (any, error) { return []byte(secret), nil })
	// The library truncates times to seconds, so it may disagree about fractions.
	if err != nil && !strings.Contains(fmt.Sprint(claims["exp"], claims["nbf"]), ".") {
		t.Fatalf("accepted %v, but golang-jwt refuses it: %v", claims, err)
	}
}
