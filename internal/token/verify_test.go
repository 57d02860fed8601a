package token_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"pubsub"
	"pubsub/internal/token"
)

const (
	kid    = "key-1"
	secret = "6b9d8f0c1e2a3b4c5d6e7f8091a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4"

	header = `{"alg":"HS256","kid":"key-1","typ":"JWT"}`
)

var now = time.Unix(1750000000, 0)

// keys is a Verifier.Key with one key.
func keys(_ context.Context, id string) (string, error) {
	if id != kid {
		return "", pubsub.ErrKeyNotFound
	}
	return secret, nil
}

func b64(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

// sign makes a token without the code under test.
func sign(secret, header, claims string) string {
	text := b64(header) + "." + b64(claims)
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(text))
	return text + "." + b64(string(mac.Sum(nil)))
}

func signed(claims string) string { return sign(secret, header, claims) }

func TestPyJWT(t *testing.T) {
	// Made by PyJWT 2.6.0.
	const (
		full    = "eyJhbGciOiJIUzI1NiIsImtpZCI6ImtleS0xIiwidHlwIjoiSldUIn0.eyJ4LWZhc3RseS1yZWFkIjpbInRvcGljMSIsImNhZlx1MDBlOS9cdTAwZmMiXSwieC1mYXN0bHktd3JpdGUiOlsidG9waWMxIl0sInN1YiI6ImFsaWNlIiwiaWF0IjoxNzUwMDAwMDAwLCJleHAiOjE3NTAwMDM2MDB9.YH4nloZhGRUBYc49IGXpJP487h8uaPGfGM86D57uxl0"
		minimal = "eyJhbGciOiJIUzI1NiIsImtpZCI6ImtleS0xIiwidHlwIjoiSldUIn0.eyJ4LWZhc3RseS1yZWFkIjpbInRvcGljMSJdfQ.XZ7zrrIGI9loatBQwMoIOVO3zDk9R3c8IkV1pYKodvs"
	)
	v := token.Verifier{Key: keys, EnforceExpiry: true}
	g, err := v.Verify(t.Context(), full, now)
	if err != nil {
		t.Fatal(err)
	}
	if g.KeyID != kid || g.Subject != "alice" || g.Admin || !g.Expires.Equal(now.Add(time.Hour+token.Leeway)) {
		t.Errorf("grant %+v", g)
	}
	if !g.CanRead("topic1") || !g.CanRead("café/ü") || g.CanRead("topic2") || !g.CanWrite("topic1") || g.CanWrite("café/ü") {
		t.Errorf("grant %+v", g)
	}
	g, err = v.Verify(t.Context(), minimal, now)
	if err != nil {
		t.Fatal(err)
	}
	if g.Subject != "" || !g.Expires.IsZero() || !g.CanRead("topic1") || g.CanWrite("topic1") {
		t.Errorf("grant %+v", g)
	}
}

func TestTimes(t *testing.T) {
	at := now.Unix()
	for _, tt := range []struct {
		claims  string
		ok      bool
		expires time.Time // with EnforceExpiry
	}{
		{`{}`, true, time.Time{}},
		{fmt.Sprintf(`{"exp":%d}`, at+1), true, now.Add(31 * time.Second)},
		{fmt.Sprintf(`{"exp":%d}`, at-29), true, now.Add(time.Second)},
		{fmt.Sprintf(`{"exp":%d.5}`, at-30), true, now.Add(time.Second / 2)},
		{fmt.Sprintf(`{"exp":%d}`, at-30), false, time.Time{}},
		{fmt.Sprintf(`{"exp":%d}`, at-3600), false, time.Time{}},
		{fmt.Sprintf(`{"nbf":%d}`, at+30), true, time.Time{}},
		{fmt.Sprintf(`{"nbf":%d}`, at+31), false, time.Time{}},
		{fmt.Sprintf(`{"nbf":%d.25}`, at+30), false, time.Time{}},
		{fmt.Sprintf(`{"nbf":%d,"exp":%d}`, at-10, at+10), true, now.Add(40 * time.Second)},
		{fmt.Sprintf(`{"iat":%d}`, at+86400), true, time.Time{}},
		{`{"iat":"yesterday"}`, true, time.Time{}},
		{`{"exp":1.75e9}`, true, now.Add(30 * time.Second)},
		{`{"exp":0}`, false, time.Time{}},
		{`{"exp":-1}`, false, time.Time{}},
		{`{"exp":1e15}`, true, time.Unix(1e15+30, 0)},
		{`{"exp":9223372036854775807}`, true, time.Time{}},
		{`{"exp":18446744073709551616}`, true, time.Time{}},
		{`{"exp":1e300}`, true, time.Time{}},
		{`{"exp":-1e300}`, false, time.Time{}},
		{`{"nbf":-1e300}`, true, time.Time{}},
		{`{"nbf":1e300}`, false, time.Time{}},
		{`{"exp":1e999}`, false, time.Time{}},
		{`{"exp":"1750003600"}`, false, time.Time{}},
		{`{"exp":null}`, false, time.Time{}},
		{`{"exp":true}`, false, time.Time{}},
		{`{"exp":[1750003600]}`, false, time.Time{}},
		{`{"nbf":"0"}`, false, time.Time{}},
		{`{"nbf":null}`, false, time.Time{}},
		{`{"EXP":1}`, true, time.Time{}},
		{fmt.Sprintf(`{"exp":1,"exp":%d}`, at), true, now.Add(30 * time.Second)},
		{fmt.Sprintf(`{"exp":%d,"exp":1}`, at), false, time.Time{}},
	} {
		t.Run(tt.claims, func(t *testing.T) {
			raw := signed(tt.claims)
			g, err := (&token.Verifier{Key: keys, EnforceExpiry: true}).Verify(t.Context(), raw, now)
			if tt.ok != (err == nil) || err != nil && !errors.Is(err, token.ErrInvalid) {
				t.Fatalf("error %v", err)
			}
			if tt.ok && !g.Expires.Equal(tt.expires) {
				t.Errorf("expires %v, want %v", g.Expires, tt.expires)
			}
			g, err = (&token.Verifier{Key: keys}).Verify(t.Context(), raw, now)
			if tt.ok != (err == nil) || tt.ok && !g.Expires.IsZero() {
				t.Errorf("without EnforceExpiry: %+v, %v", g, err)
			}
			_, err = (&token.Verifier{Key: keys, RequireExp: true}).Verify(t.Context(), raw, now)
			if hasExp := strings.Contains(tt.claims, `"exp"`); (err == nil) != (tt.ok && hasExp) {
				t.Errorf("with RequireExp: %v", err)
			}
		})
	}
}

func TestTopicClaims(t *testing.T) {
	for _, tt := range []struct {
		claims      string
		ok          bool
		read, write bool // of "t"
	}{
		{`{}`, true, false, false},
		{`{"x-fastly-read":[],"x-fastly-write":[]}`, true, false, false},
		{`{"x-fastly-read":["t"]}`, true, true, false},
		{`{"x-fastly-write":["a","t"]}`, true, false, true},
		{`{"x-fastly-read":["","#","+","t/"],"x-fastly-write":["T"]}`, true, false, false},
		{`{"X-Fastly-Read":["t"]}`, true, false, false},
		{`{"x-fastly-read":["t"],"x-fastly-read":[]}`, true, false, false},
		{`{"x-fastly-read":[],"x-fastly-read":["t"]}`, true, true, false},
		{`{"x-fastly-read":["\u0074"]}`, true, true, false},
		{`{"x-fastly-read":"t"}`, false, false, false},
		{`{"x-fastly-read":null}`, false, false, false},
		{`{"x-fastly-read":{"t":1}}`, false, false, false},
		{`{"x-fastly-read":1}`, false, false, false},
		{`{"x-fastly-read":["t",1]}`, false, false, false},
		{`{"x-fastly-read":["t",null]}`, false, false, false},
		{`{"x-fastly-read":[["t"]]}`, false, false, false},
		{`{"x-fastly-read":["t"],"x-fastly-write":"t"}`, false, false, false},
		{`{"x-fastly-write":null}`, false, false, false},
		{"{\"x-fastly-read\":[\"\xff\"]}", false, false, false},
		{`{"sub":1}`, false, false, false},
	} {
		t.Run(tt.claims, func(t *testing.T) {
			g, err := (&token.Verifier{Key: keys}).Verify(t.Context(), signed(tt.claims), now)
			if tt.ok != (err == nil) || err != nil && !errors.Is(err, token.ErrInvalid) {
				t.Fatalf("error %v", err)
			}
			if g.CanRead("t") != tt.read || g.CanWrite("t") != tt.write || g != nil && g.Admin {
				t.Errorf("grant %+v", g)
			}
		})
	}
}

func TestKeyLookup(t *testing.T) {
	type ctxKey struct{}
	ctx := context.WithValue(t.Context(), ctxKey{}, "ours")
	down := errors.New("down")
	for _, tt := range []struct {
		name    string
		value   string
		err     error
		invalid bool
		lookup  bool // Verify returns the error of the lookup
	}{
		{"found", secret, nil, false, false},
		{"not found", "", fmt.Errorf("wrapped: %w", pubsub.ErrKeyNotFound), true, false},
		{"empty value", "", nil, true, false},
		{"failed", "", down, false, true},
		{"failed with a value", secret, down, false, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			signedWith := tt.value // an empty value is refused even if the signature is valid
			v := token.Verifier{Key: func(ctx context.Context, id string) (string, error) {
				if id != kid || ctx.Value(ctxKey{}) != "ours" {
					t.Errorf("lookup of %q, or with another context", id)
				}
				return tt.value, tt.err
			}}
			_, err := v.Verify(ctx, sign(signedWith, header, `{}`), now)
			if errors.Is(err, token.ErrInvalid) != tt.invalid || errors.Is(err, down) != tt.lookup || (err == nil) != (!tt.invalid && !tt.lookup) {
				t.Errorf("error %v", err)
			}
		})
	}
}

// Secrets may be any bytes.
func TestSecretByteForByte(t *testing.T) {
	for _, value := range []string{"x", " ", "a\n", "\x00", "\xff\xfe", strings.Repeat("long", 100)} {
		v := token.Verifier{Key: func(context.Context, string) (string, error) { return value, nil }}
		if _, err := v.Verify(t.Context(), sign(value, header, `{}`), now); err != nil {
			t.Errorf("%q: %v", value, err)
		}
		if _, err := v.Verify(t.Context(), sign(value+"x", header, `{}`), now); !errors.Is(err, token.ErrInvalid) {
			t.Errorf("%q: %v", value, err)
		}
	}
}
