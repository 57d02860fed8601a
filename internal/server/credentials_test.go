package server

import (
	"errors"
	"strings"
	"testing"
	"time"

	"pubsub"
)

func TestAuthenticate(t *testing.T) {
	n := newNode(t, nil)
	jwt := n.token(map[string]any{"sub": "alice", "x-fastly-read": []string{"r"}, "x-fastly-write": []string{"w"}})
	forged := sign(pubsub.Key{ID: n.key.ID, Value: "another value"}, map[string]any{"x-fastly-read": []string{"r"}})
	stranger := sign(pubsub.Key{ID: "ffffffffffffffff", Value: "x"}, map[string]any{})
	for _, c := range []struct {
		name              string
		fastlyKey, header string // several headers: separated by \n
		query             string
		want              string // admin, alice, or the error
	}{
		{"nothing", "", "", "", "Missing 'Authorization' header"},
		{"jwt in the header", "", "Bearer " + jwt, "", "alice"},
		{"scheme in any case", "", "bEaReR " + jwt, "", "alice"},
		{"several spaces", "", "Bearer   " + jwt, "", "alice"},
		{"jwt in the query", "", "", jwt, "alice"},
		{"the query goes before the header", "", "Bearer wrong", jwt, "alice"},
		{"even where it is the one that is wrong", "", "Bearer " + jwt, "wrong", "Invalid token"},
		{"no token", "", "Bearer", "", "Invalid 'Authorization' header"},
		{"no scheme", "", jwt, "", "Invalid 'Authorization' header"},
		{"no token after the space", "", "Bearer  ", "", "Invalid 'Authorization' header"},
		{"strange scheme", "", "Be@rer x", "", "Invalid 'Authorization' header"},
		{"control characters", "", "B\x01 x", "", "Invalid 'Authorization' header"},
		{"two headers", "", "Bearer a\nBearer b", "", "Invalid 'Authorization' header"},
		{"two headers, one empty", "", "\nBearer " + jwt, "", "alice"},
		{"other scheme", "", "Basic YTpi", "", "Unsupported authorization scheme: Basic"},
		{"long scheme", "", strings.Repeat("x", 100) + " y", "", "Unsupported authorization scheme: " + strings.Repeat("x", 64) + "…"},
		{"forged", "", "Bearer " + forged, "", "Invalid token"},
		{"unknown key", "", "Bearer " + stranger, "", "Invalid token"},
		{"garbage", "", "Bearer a b c", "", "Invalid token"},
		{"a JWT of 1 MB", "", "Bearer " + strings.Repeat("e", 1<<20), "", "Invalid token"},
		{"admin by Fastly-Key", adminToken, "", "", "admin"},
		{"admin by Fastly-Key goes first", adminToken, "Bearer wrong", "wrong", "admin"},
		{"admin by Authorization", "", "Bearer " + adminToken, "", "admin"},
		{"admin never by the query", "", "", adminToken, "Invalid token"},
		{"wrong Fastly-Key is ignored", "wrong", "Bearer " + jwt, "", "alice"},
		{"wrong Fastly-Key alone is nothing", "wrong", "", "", "Missing 'Authorization' header"},
		{"a longer Fastly-Key", adminToken + "x", "", "", "Missing 'Authorization' header"},
		{"Fastly-Key is no place for a JWT", jwt, "", "", "Missing 'Authorization' header"},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := exchange{method: "GET", target: "/events", header: map[string]string{}}
			if c.fastlyKey != "" {
				x.header["Fastly-Key"] = c.fastlyKey
			}
			if c.header != "" {
				x.header["Authorization"] = c.header
			}
			cred, err := n.authenticate(t.Context(), request(x), c.query)
			got := ""
			switch {
			case err != nil:
				got = err.Error()
			case cred.Admin:
				got = "admin"
			default:
				got = cred.Subject
			}
			if got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
			if got == "alice" && (!cred.CanRead("r") || !cred.CanWrite("w") || cred.CanRead("w") || cred.KeyID != n.key.ID) {
				t.Errorf("got grant %+v", cred.Grant)
			}
		})
	}
}

func TestNobodyIsAdminWithoutAdminToken(t *testing.T) {
	n := newNode(t, func(o *Options) { o.AdminToken = "" })
	if r := request(exchange{method: "GET", target: "/", header: map[string]string{"Fastly-Key": ""}}); n.isAdmin(r) {
		t.Error("an empty Fastly-Key is admin")
	}
	if _, err := n.authenticateToken(t.Context(), ""); err == nil {
		t.Error("an empty token is admin")
	}
}

// A header "that is present and empty counts as absent", beside another one, too.
func TestEmptyFastlyKeyBesideAnother(t *testing.T) {
	r := request(exchange{method: "GET", target: "/"})
	r.Header["Fastly-Key"] = []string{"", adminToken}
	if !newNode(t, nil).isAdmin(r) {
		t.Error("the second one does not count")
	}
}

func TestPublisherIsKeyAndSubjectElseToken(t *testing.T) {
	n := newNode(t, nil)
	other := pubsub.Key{ID: "aabbccddeeff0011", Value: "v2"}
	if err := n.backplane.PutKey(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	who := func(raw string) publisher {
		c, err := n.authenticateToken(t.Context(), raw)
		if err != nil {
			t.Fatal(err)
		}
		return c.publisher
	}
	alice1 := who(n.token(map[string]any{"sub": "alice", "exp": time.Now().Add(time.Hour).Unix()}))
	alice2 := who(n.token(map[string]any{"sub": "alice", "x-fastly-write": []string{"a"}}))
	if alice1 != alice2 {
		t.Error("two tokens of one subject are two publishers")
	}
	all := []publisher{
		alice1,
		who(n.token(map[string]any{"sub": "bob"})),
		who(sign(other, map[string]any{"sub": "alice"})),
		who(n.token(map[string]any{"x-fastly-write": []string{"a"}})),
		who(n.token(map[string]any{"x-fastly-write": []string{"b"}})),
	}
	seen := make(map[publisher]int)
	for i, p := range all {
		if j, ok := seen[p]; ok {
			t.Errorf("%d and %d are one publisher", i, j)
		}
		seen[p] = i
	}
}

// A client learns that its token is refused, the operator why, and nobody else's
// token.
func TestWhyATokenIsRefused(t *testing.T) {
	n := newNode(t, nil)
	old := n.token(map[string]any{"exp": 1})
	if _, err := n.authenticateToken(t.Context(), old); err == nil || err.Error() != "Invalid token" {
		t.Fatalf("got %v", err)
	}
	if lines := n.heard.all(); len(lines) != 1 || !strings.Contains(lines[0], "expired") || strings.Contains(lines[0], old) {
		t.Errorf("heard %q", lines)
	}
}

func TestKeyLookupFailureIsNoRefusal(t *testing.T) {
	n := newNode(t, nil)
	n.backplane.fail("Key", pubsub.ErrUnavailable)
	stranger := sign(pubsub.Key{ID: "ffffffffffffffff", Value: "secret-value"}, map[string]any{})
	_, err := n.authenticateToken(t.Context(), stranger)
	if err == nil || err.kind != authFailed || err.Error() != "Auth process failed" || !errors.Is(err.cause, pubsub.ErrUnavailable) {
		t.Fatalf("got %+v", err)
	}
	if lines := n.heard.all(); len(lines) != 1 || !strings.HasPrefix(lines[0], "key lookup failed: ") || strings.Contains(lines[0], stranger) {
		t.Errorf("heard %q", lines)
	}
	if _, err := n.authenticateToken(t.Context(), n.writer("a")); err != nil {
		t.Errorf("a known key needs no look-up: %v", err)
	}
}
