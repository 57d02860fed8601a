package testkit

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"maps"

	"pubsub"
)

// Claims are claims of a token, by name.
type Claims map[string]any

// Token returns a token, signed with k, that may read and write topics; a nil list
// is no claim. more, which may be nil, are further claims.
func Token(k pubsub.Key, read, write []string, more Claims) string {
	c := Claims{}
	if read != nil {
		c["x-fastly-read"] = read
	}
	if write != nil {
		c["x-fastly-write"] = write
	}
	maps.Copy(c, more)
	return Sign(k, c)
}

// Sign returns a token with exactly these claims, which are marshaled to JSON. It
// follows RFC 7515 and 7518 and shares no code with internal/token.
func Sign(k pubsub.Key, claims any) string {
	return SignWith(k.Value, map[string]any{"alg": "HS256", "typ": "JWT", "kid": k.ID}, claims)
}

// SignWith is like Sign, with a header of the caller's choice. It signs with
// HMAC-SHA-256 even if the header names another algorithm.
func SignWith(secret string, header, claims any) string {
	signed := Unsigned(header, claims)
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(signed))
	return signed + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// Unsigned returns a token without its last dot and signature.
func Unsigned(header, claims any) string { return tokenPart(header) + "." + tokenPart(claims) }

func tokenPart(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return base64.RawURLEncoding.EncodeToString(b)
}
