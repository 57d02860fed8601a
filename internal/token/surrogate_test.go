package token_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"pubsub"
	"pubsub/internal/token"
)

// Strings in claims must be Unicode, because package json decodes every escape of half a
// surrogate pair, and every invalid byte, as U+FFFD.
func TestClaimsAreUnicode(t *testing.T) {
	for _, tt := range []struct {
		value string // of a JSON string in a claim, without the quotes
		want  string // empty means that the token is refused
	}{
		{`a\ud800`, ""},
		{`a\uD800`, ""},
		{`\udfffa`, ""},
		{`\udc00\ud800`, ""},
		{`\ud800\ud800\udc00`, ""},
		{`\ud800\\udc00`, ""},
		{`\ud800\n`, ""},
		{`\ud83d\u0041`, ""},
		{`\ud83c\udf88\ud83c`, ""},
		{"a\xff", ""},
		{"a\xed\xa0\x80", ""},              // a surrogate in UTF-8
		{"\xed\xa0\xbc\xed\xbe\x88", ""},   // a pair of surrogates in UTF-8
		{`\ud83c\udf88`, "🎈"},              // a pair
		{`\uD83C\uDF88\ud83c\udf88`, "🎈🎈"}, // pairs
		{`🎈\\ud800`, `🎈\ud800`},            // an escaped backslash, then letters
		{`\\\\ud800\"`, `\\ud800"`},        // two escaped backslashes
		{`\ufffd`, "\ufffd"},               // U+FFFD itself is valid
		{"\ufffd", "\ufffd"},               //
		{`\ufffe\uffff\ud7ff\ue000`, "\ufffe\uffff\ud7ff\ue000"}, // neighbours of the surrogates
	} {
		for _, claims := range []string{
			`{"x-fastly-read":["VALUE"]}`, `{"x-fastly-write":["t","VALUE"]}`, `{"sub":"VALUE"}`,
			`{"sub":"x","x-fastly-read":[],"\u0073ub":"VALUE"}`,
		} {
			claims = strings.ReplaceAll(claims, "VALUE", tt.value)
			g, err := (&token.Verifier{Key: keys}).Verify(t.Context(), signed(claims), now)
			if tt.want == "" {
				if !errors.Is(err, token.ErrInvalid) {
					t.Errorf("claims %q: grant %+v, error %v", claims, g, err)
				}
				continue
			}
			if err != nil {
				t.Errorf("%q: %v", claims, err)
				continue
			}
			want := pubsub.Topic(tt.want)
			if !g.CanRead(want) && !g.CanWrite(want) && g.Subject != tt.want {
				t.Errorf("%q: %+v, want %q", claims, g, tt.want)
			}
		}
	}
	// Strings that are not used may be any JSON in UTF-8.
	for _, claims := range []string{
		`{"name":"\ud800","x-fastly-read":["t"]}`, `{"\ud800":1,"x-fastly-read":["t"]}`,
		`{"x-fastly-read":["\ud800"],"x-fastly-read":["t"]}`,
	} {
		if g, err := (&token.Verifier{Key: keys}).Verify(t.Context(), signed(claims), now); err != nil || !g.CanRead("t") {
			t.Errorf("claims %q: grant %+v, error %v", claims, g, err)
		}
	}
}

func TestKidIsUnicode(t *testing.T) {
	for value, want := range map[string]string{
		`\ud800`: "", "\xff": "", `k\udc00`: "",
		`\ufffd`: "\ufffd", "\ufffd": "\ufffd", `\ud83c\udf88`: "🎈", `\\ud800`: `\ud800`,
	} {
		lookedUp := ""
		v := token.Verifier{Key: func(_ context.Context, id string) (string, error) {
			lookedUp = id
			return secret, nil
		}}
		_, err := v.Verify(t.Context(), sign(secret, `{"alg":"HS256","typ":"\ud800","kid":"`+value+`"}`, `{}`), now)
		if want == "" && (!errors.Is(err, token.ErrInvalid) || lookedUp != "") || want != "" && (err != nil || lookedUp != want) {
			t.Errorf("%q: %v, lookup of %q, want %q", value, err, lookedUp, want)
		}
	}
}
