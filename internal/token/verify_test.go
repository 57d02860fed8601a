package token_test

import (
	"context"
	"crypto"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"pubsub"
	"pubsub/internal/token"
)

const (
	kid    = "key-1"
	secret = "6b9d8f0c1e2a3b4c5d6e7f8091a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4"

	header = `{"alg":"HS256","kid":"key-1","typ":"JWT"}`
)

var now = time.Unix(1750000000, 0)

// keys is a Verifier's Key over one key.
func keys(_ context.Context, id string) (string, error) {
	if id != kid {
		return "", pubsub.ErrKeyNotFound
	}
	return secret, nil
}

func b64(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

// sign makes a token by hand: nothing of the code under test is in it.
func sign(secret, header, claims string) string {
	text := b64(header) + "." + b64(claims)
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(text))
	return text + "." + b64(string(mac.Sum(nil)))
}

func good(claims string) string { return sign(secret, header, claims) }

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
			raw := good(tt.claims)
			g, err := (&token.Verifier{Key: keys, EnforceExpiry: true}).Verify(t.Context(), raw, now)
			if tt.ok != (err == nil) || err != nil && !errors.Is(err, token.ErrInvalid) {
				t.Fatalf("error %v", err)
			}
			if tt.ok && !g.Expires.Equal(tt.expires) {
				t.Errorf("expires %v, want %v", g.Expires, tt.expires)
			}
			g, err = (&token.Verifier{Key: keys}).Verify(t.Context(), raw, now)
			if tt.ok != (err == nil) || tt.ok && !g.Expires.IsZero() {
				t.Errorf("expiry not enforced: %+v, %v", g, err)
			}
			_, err = (&token.Verifier{Key: keys, RequireExp: true}).Verify(t.Context(), raw, now)
			if hasExp := strings.Contains(tt.claims, `"exp"`); (err == nil) != (tt.ok && hasExp) {
				t.Errorf("exp required: %v", err)
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
			g, err := (&token.Verifier{Key: keys}).Verify(t.Context(), good(tt.claims), now)
			if tt.ok != (err == nil) || err != nil && !errors.Is(err, token.ErrInvalid) {
				t.Fatalf("error %v", err)
			}
			if g.CanRead("t") != tt.read || g.CanWrite("t") != tt.write || g != nil && g.Admin {
				t.Errorf("grant %+v", g)
			}
		})
	}
}

// TestRefused holds what is no good token whoever made it. Where the key must not
// even be looked up, looking it up fails the test.
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
	valid := good(`{"x-fastly-read":["t"]}`)
	parts := strings.Split(valid, ".")
	// The last character of 32 bytes holds two bits that mean nothing.
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
		{"HS384 in the header only", sign(secret, `{"alg":"HS384","kid":"key-1"}`, `{}`), false},
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
		{"bits that mean nothing", loose, false},
		{"standard Base64", strings.NewReplacer("-", "+", "_", "/").Replace(good(`{"x":"` + strings.Repeat("???>>>", 4) + `"}`)), false},
		{"newline at the end", valid + "\n", false},
		{"newline within", parts[0] + ".\r\n" + parts[1] + "." + parts[2], false},
		{"space in front", " " + valid, false},
		{"Bearer", "Bearer " + valid, false},
		{"header no object", sign(secret, `["HS256"]`, `{}`), false},
		{"header null", sign(secret, `null`, `{}`), false},
		{"header with more after it", sign(secret, header+"{}", `{}`), false},
		{"claims null", good(`null`), true},
		{"claims an array", good(`[]`), false},
		{"claims a string", good(`"x"`), false},
		{"claims empty", good(``), false},
		{"claims with more after them", good(`{}{}`), false},
		{"claims encrypted", good("\x00\x01\x02"), false},
		{"deep claims, not closed", good(strings.Repeat("[", 5000)), false},
		{"deep header", sign(secret, strings.Repeat(`{"a":`, 900)+"1"+strings.Repeat("}", 900), `{}`), false},
		{"deep claim", good(`{"x-fastly-read":` + strings.Repeat("[", 2500) + strings.Repeat("]", 2500) + `}`), true},
		{"over 8 KiB", good(`{"x":"` + strings.Repeat("x", token.MaxBytes) + `"}`), false},
		{"1 MB", strings.Repeat("A", 1<<20), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := token.Verifier{Key: func(ctx context.Context, id string) (string, error) {
				if !tt.lookedUp {
					t.Errorf("key %q was looked up", id)
				}
				if id == "" || len(id) > token.MaxBytes {
					t.Errorf("key %q was looked up", id)
				}
				return keys(ctx, id)
			}}
			g, err := v.Verify(t.Context(), tt.raw, now)
			if !errors.Is(err, token.ErrInvalid) {
				t.Errorf("error %v", err)
			}
			if g != nil {
				t.Errorf("a refused token has the grant %+v", g)
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

// The limit is on the token's length, to the byte.
func TestMaxBytes(t *testing.T) {
	v := token.Verifier{Key: keys}
	accepted := 0
	for n := token.MaxBytes * 3 / 4; accepted == 0; n-- {
		raw := good(`{"x":"` + strings.Repeat("x", n) + `"}`)
		_, err := v.Verify(t.Context(), raw, now)
		if (err == nil) != (len(raw) <= token.MaxBytes) {
			t.Fatalf("%d bytes: %v", len(raw), err)
		}
		if err == nil {
			accepted = len(raw)
		}
	}
	if accepted < token.MaxBytes-1 { // Base64 leaves out some lengths
		t.Errorf("the longest token that was accepted has %d bytes", accepted)
	}
}

// Who tries kids cannot tell which exist.
func TestUnknownKeyReadsLikeBadSignature(t *testing.T) {
	v := token.Verifier{Key: keys}
	_, unknown := v.Verify(t.Context(), sign(secret, `{"alg":"HS256","kid":"key-2"}`, `{}`), now)
	_, unsigned := v.Verify(t.Context(), sign("x", header, `{}`), now)
	if unknown == nil || unknown != unsigned {
		t.Errorf("%v is not %v", unknown, unsigned)
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
		lookup  bool // the error is the lookup's
	}{
		{"found", secret, nil, false, false},
		{"not found", "", fmt.Errorf("wrapped: %w", pubsub.ErrKeyNotFound), true, false},
		{"empty value", "", nil, true, false},
		{"failed", "", down, false, true},
		{"failed after all", secret, down, false, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			signedWith := tt.value // an empty value is not accepted even from who knows it
			v := token.Verifier{Key: func(ctx context.Context, id string) (string, error) {
				if id != kid || ctx.Value(ctxKey{}) != "ours" {
					t.Errorf("looked up %q with another context", id)
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

// Secrets are any bytes.
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
			t.Errorf("%s: %s", name, raw)
		}
	}
	raw, err := token.Sign(pubsub.Key{ID: kid, Value: secret}, token.Claims{Read: []string{strings.Repeat("x", token.MaxBytes)}})
	if err == nil || strings.Contains(err.Error(), secret) {
		t.Errorf("%d bytes, %v", len(raw), err)
	}
}

// FuzzVerify tries tokens as strangers send them.
func FuzzVerify(f *testing.F) {
	f.Add(good(`{"x-fastly-read":["t"]}`))
	f.Add(good(`{"exp":1e300}`))
	f.Add(sign("", `{"alg":"none"}`, `{}`))
	f.Add("..")
	f.Fuzz(func(t *testing.T, raw string) {
		checkAgainstLibrary(t, raw)
	})
}

// FuzzSigned tries headers and claims that a key's owner has signed, so that what
// comes after the signature is reached.
func FuzzSigned(f *testing.F) {
	f.Add(header, `{"x-fastly-read":["t"],"x-fastly-write":[],"exp":1750000001,"nbf":1,"sub":"s"}`)
	f.Add(`{"alg":"HS256","kid":"key-1","crit":[]}`, `{"exp":-1e300,"nbf":1e300}`)
	f.Add(`{"alg":"none","alg":"HS256","kid":"key-1"}`, `null`)
	f.Add(`{"alg":"HS256","kid":"\u006bey-1"}`, `{"x-fastly-read":["t",1]}`)
	f.Fuzz(func(t *testing.T, header, claims string) {
		checkAgainstLibrary(t, sign(secret, header, claims))
	})
}

// checkAgainstLibrary verifies raw and, if it is accepted, has golang-jwt verify
// it by its own rules, and reads its parts again with nothing but the standard
// library.
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
		t.Fatalf("accepted the header %v", head)
	}
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(parts[0] + "." + parts[1]))
	if parts[2] != b64(string(mac.Sum(nil))) {
		t.Fatalf("accepted the signature of %q", raw)
	}
	for _, name := range []string{"exp", "nbf"} {
		if f, ok := claims[name].(float64); ok && (f > 1e15 || f < -1e15) {
			return // the library's arithmetic overflows
		}
	}
	p := jwt.NewParser(jwt.WithValidMethods([]string{"HS256"}), jwt.WithLeeway(token.Leeway), jwt.WithTimeFunc(func() time.Time { return now }))
	_, err = p.Parse(raw, func(*jwt.Token) (any, error) { return []byte(secret), nil })
	// The library cuts times to seconds; a claim with a fraction may differ.
	if err != nil && !strings.Contains(fmt.Sprint(claims["exp"], claims["nbf"]), ".") {
		t.Fatalf("accepted %v, which golang-jwt refuses: %v", claims, err)
	}
}
