package token_test

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/golang-jwt/jwt/v5"

	"pubsub/internal/token"
)

// Verify refuses tokens that are malformed or have an invalid signature, most of them
// before it looks up the key.
func TestRefused(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	public := string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: x509.MarshalPKCS1PublicKey(&rsaKey.PublicKey)}))
	rs256 := func() string {
		text := b64(`{"alg":"RS256","kid":"key-1"}`) + "." + b64(`{}`)
		sum := sha256.Sum256([]byte(text))
		sig, err := rsa.SignPKCS1v15(rand.Reader, rsaKey, crypto.SHA256, sum[:])
		if err != nil {
			t.Fatal(err)
		}
		return text + "." + b64(string(sig))
	}()
	other := func(alg jwt.SigningMethod) string {
		tok := jwt.NewWithClaims(alg, jwt.MapClaims{})
		tok.Header["kid"] = kid
		s, err := tok.SignedString([]byte(secret))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	valid := signed(`{"x-fastly-read":["t"]}`)
	parts := strings.Split(valid, ".")
	// Two bits of the last character of 32 bytes in Base64 are unused.
	loose := valid[:len(valid)-1] + string(valid[len(valid)-1]+1)

	for _, tt := range []struct {
		name, raw string
		lookedUp  bool // the key may be looked up
	}{
		{"empty", "", false},
		{"a word", "x", false},
		{"dots", "..", false},
		{"many dots", strings.Repeat(".", token.MaxBytes), false},
		{"two parts", parts[0] + "." + parts[1], false},
		{"four parts", valid + ".x", false},
		{"unsecured", b64(`{"alg":"none","kid":"key-1"}`) + "." + parts[1] + ".", false},
		{"none, capital letters", b64(`{"alg":"NONE","kid":"key-1"}`) + "." + parts[1] + ".", false},
		{"none, signed", sign(secret, `{"alg":"none","kid":"key-1"}`, `{}`), false},
		{"HS384", other(jwt.SigningMethodHS384), false},
		{"HS512", other(jwt.SigningMethodHS512), false},
		{"HS384 only in the header", sign(secret, `{"alg":"HS384","kid":"key-1"}`, `{}`), false},
		{"hs256 in small letters", sign(secret, `{"alg":"hs256","kid":"key-1"}`, `{}`), false},
		{"RS256", rs256, false},
		{"RS256 in the header, signed with the public key", sign(public, `{"alg":"RS256","kid":"key-1"}`, `{}`), false},
		{"HS256 signed with a public key", sign(public, header, `{}`), true},
		{"unknown alg", sign(secret, `{"alg":"X","kid":"key-1"}`, `{}`), false},
		{"no alg", sign(secret, `{"kid":"key-1"}`, `{}`), false},
		{"alg of another type", sign(secret, `{"alg":["HS256"],"kid":"key-1"}`, `{}`), false},
		{"none after HS256", sign(secret, `{"alg":"HS256","alg":"none","kid":"key-1"}`, `{}`), false},
		{"crit", sign(secret, `{"alg":"HS256","kid":"key-1","crit":["b64"],"b64":false}`, `{}`), false},
		{"crit, empty", sign(secret, `{"alg":"HS256","kid":"key-1","crit":[]}`, `{}`), false},
		{"crit, null", sign(secret, `{"alg":"HS256","kid":"key-1","crit":null}`, `{}`), false},
		{"no kid", sign(secret, `{"alg":"HS256"}`, `{}`), false},
		{"empty kid", sign(secret, `{"alg":"HS256","kid":""}`, `{}`), false},
		{"kid of another type", sign(secret, `{"alg":"HS256","kid":1}`, `{}`), false},
		{"kid in an array", sign(secret, `{"alg":"HS256","kid":["key-1"]}`, `{}`), false},
		{"kid null", sign(secret, `{"alg":"HS256","kid":null}`, `{}`), false},
		{"unknown kid", sign(secret, `{"alg":"HS256","kid":"key-2"}`, `{}`), true},
		{"path as kid", sign("", `{"alg":"HS256","kid":"../../../dev/null"}`, `{}`), true},
		{"SQL as kid", sign("x", `{"alg":"HS256","kid":"' UNION SELECT 'x"}`, `{}`), true},
		{"kid with a NUL", sign(secret, `{"alg":"HS256","kid":"key-1\u0000"}`, `{}`), true},
		{"kid in capital letters", sign(secret, `{"alg":"HS256","kid":"KEY-1"}`, `{}`), true},
		{"key in the header", sign("x", `{"alg":"HS256","kid":"key-1","jwk":{"kty":"oct","k":"eA"},"jku":"http://localhost/"}`, `{}`), true},
		{"other secret", sign(secret+"x", header, `{}`), true},
		{"empty secret", sign("", header, `{}`), true},
		{"hex-decoded secret", sign(unhex(t, secret), header, `{}`), true},
		{"no signature", parts[0] + "." + parts[1] + ".", true},
		{"short signature", valid[:len(valid)-4], true},
		{"long signature", valid + "AAAA", true},
		{"other claims", parts[0] + "." + b64(`{"x-fastly-read":["t"],"x-fastly-write":["t"]}`) + "." + parts[2], true},
		{"other header", b64(`{"alg":"HS256","kid":"key-1"}`) + "." + parts[1] + "." + parts[2], true},
		{"parts swapped", parts[1] + "." + parts[0] + "." + parts[2], false},
		{"padded", parts[0] + "." + parts[1] + "." + parts[2] + "=", false},
		{"unused bits", loose, false},
		{"standard Base64", strings.NewReplacer("-", "+", "_", "/").Replace(signed(`{"x":"` + strings.Repeat("???>>>", 4) + `"}`)), false},
		{"newline at the end", valid + "\n", false},
		{"newline within", parts[0] + ".\r\n" + parts[1] + "." + parts[2], false},
		{"space in front", " " + valid, false},
		{"Bearer", "Bearer " + valid, false},
		{"header not an object", sign(secret, `["HS256"]`, `{}`), false},
		{"header null", sign(secret, `null`, `{}`), false},
		{"data after the header", sign(secret, header+"{}", `{}`), false},
		{"claims null", signed(`null`), true},
		{"claims an array", signed(`[]`), false},
		{"claims a string", signed(`"x"`), false},
		{"claims empty", signed(``), false},
		{"data after the claims", signed(`{}{}`), false},
		{"claims not JSON", signed("\x00\x01\x02"), false},
		{"deep claims, not closed", signed(strings.Repeat("[", 5000)), false},
		{"deep header", sign(secret, strings.Repeat(`{"a":`, 900)+"1"+strings.Repeat("}", 900), `{}`), false},
		{"deep claim", signed(`{"x-fastly-read":` + strings.Repeat("[", 2500) + strings.Repeat("]", 2500) + `}`), true},
		{"over 8 KiB", signed(`{"x":"` + strings.Repeat("x", token.MaxBytes) + `"}`), false},
		{"1 MB", strings.Repeat("A", 1<<20), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := token.Verifier{Key: func(ctx context.Context, id string) (string, error) {
				if !tt.lookedUp {
					t.Errorf("key %q is looked up", id)
				}
				if id == "" || len(id) > token.MaxBytes {
					t.Errorf("key %q is looked up", id)
				}
				return keys(ctx, id)
			}}
			g, err := v.Verify(t.Context(), tt.raw, now)
			if !errors.Is(err, token.ErrInvalid) {
				t.Errorf("error %v", err)
			}
			if g != nil {
				t.Errorf("grant %+v of a refused token", g)
			}
			if err != nil && (strings.Contains(err.Error(), secret) || len(err.Error()) > 200) {
				t.Errorf("error %q", err)
			}
		})
	}
}

func unhex(t *testing.T, s string) string {
	var b []byte
	if _, err := fmt.Sscanf(s, "%x", &b); err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// MaxBytes is the exact limit.
func TestMaxBytes(t *testing.T) {
	v := token.Verifier{Key: keys}
	accepted := 0
	for n := token.MaxBytes * 3 / 4; accepted == 0; n-- {
		raw := signed(`{"x":"` + strings.Repeat("x", n) + `"}`)
		_, err := v.Verify(t.Context(), raw, now)
		if (err == nil) != (len(raw) <= token.MaxBytes) {
			t.Fatalf("%d bytes: %v", len(raw), err)
		}
		if err == nil {
			accepted = len(raw)
		}
	}
	if accepted < token.MaxBytes-1 { // some lengths are impossible in Base64
		t.Errorf("the longest accepted token has %d bytes", accepted)
	}
}

// The error does not reveal whether a kid exists.
func TestUnknownKeyReadsLikeBadSignature(t *testing.T) {
	v := token.Verifier{Key: keys}
	_, unknown := v.Verify(t.Context(), sign(secret, `{"alg":"HS256","kid":"key-2"}`, `{}`), now)
	_, unsigned := v.Verify(t.Context(), sign("x", header, `{}`), now)
	if unknown == nil || unknown != unsigned {
		t.Errorf("errors %v and %v, want the same", unknown, unsigned)
	}
}
