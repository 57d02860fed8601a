package token_test

import (
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"pubsub"
	"pubsub/internal/token"
)

func TestSignReadsBack(t *testing.T) {
	key := pubsub.Key{ID: kid, Value: secret}
	raw, err := token.Sign(key, token.Claims{
		Read: []string{"a", "é<&>\"\\"}, Write: []string{"b"}, Subject: "alice",
		Issued: now, Expires: now.Add(time.Hour + time.Millisecond),
	})
	if err != nil {
		t.Fatal(err)
	}
	g, err := (&token.Verifier{Key: keys, EnforceExpiry: true, RequireExp: true}).Verify(t.Context(), raw, now)
	if err != nil {
		t.Fatal(err)
	}
	if !g.CanRead("a") || !g.CanRead("é<&>\"\\") || g.CanRead("b") || !g.CanWrite("b") || g.CanWrite("a") ||
		g.Subject != "alice" || g.KeyID != kid || !g.Expires.Equal(now.Add(time.Hour+token.Leeway)) {
		t.Errorf("grant %+v", g)
	}

	raw, err = token.Sign(key, token.Claims{})
	if err != nil {
		t.Fatal(err)
	}
	g, err = (&token.Verifier{Key: keys, EnforceExpiry: true}).Verify(t.Context(), raw, now)
	if err != nil || !g.Expires.IsZero() || g.Subject != "" {
		t.Errorf("grant %+v, %v", g, err)
	}
	claims, err := base64.RawURLEncoding.DecodeString(strings.Split(raw, ".")[1])
	if want := `{"x-fastly-read":[],"x-fastly-write":[]}`; err != nil || string(claims) != want {
		t.Errorf("claims %s, %v; want %s", claims, err, want)
	}
}

func TestSignRefuses(t *testing.T) {
	for name, key := range map[string]pubsub.Key{
		"no id": {Value: "x"}, "no value": {ID: "x"}, "nothing": {},
	} {
		if raw, err := token.Sign(key, token.Claims{}); err == nil {
			t.Errorf("%s: signed as %s", name, raw)
		}
	}
	raw, err := token.Sign(pubsub.Key{ID: kid, Value: secret}, token.Claims{Read: []string{strings.Repeat("x", token.MaxBytes)}})
	if err == nil || strings.Contains(err.Error(), secret) {
		t.Errorf("%d bytes, %v", len(raw), err)
	}
}
