package server

import (
	"errors"
	"pubsub/internal/testkit"
	"strings"
	"testing"
	"time"

	"pubsub"
)

func TestAuthenticate(t *testing.T) {
	n := newNode(t, nil)
	jwt := n.token(map[string]any{"sub": "alice", "x-fastly-read": []string{"r"}, "x-fastly-write": []string{"w"}})
	forged := testkit.Sign(pubsub.Key{ID: n.key.ID, Value: "another value"}, map[string]any{"x-fastly-read": []string{"r"}})
	unknown := testkit.Sign(pubsub.Key{ID: "ffffffffffffffff", Value: "x"}, map[string]any{})
	for _, c := range []struct {
		name              string
		fastlyKey, header string // several headers: separated by \n
		query             string
		want              string // admin, alice, or the text of the error
	}{
		{"nothing", "", "", "", "Missing 'Authorization' header"},
		{"jwt in the header", "", "Bearer " + jwt, "", "alice"},
		{"scheme in any case", "", "bEaReR " + jwt, "", "alice"},
		{"several spaces", "", "Bearer   " + jwt, "", "alice"},
		{"jwt in the query", "", "", jwt, "alice"},
		{"the query before the header", "", "Bearer wrong", jwt, "alice"},
		{"a wrong query before the header", "", "Bearer " + jwt, "wrong", "Invalid token"},
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
		{"unknown key", "", "Bearer " + unknown, "", "Invalid token"},
		{"garbage", "", "Bearer a b c", "", "Invalid token"},
		{"a JWT of 1 MB", "", "Bearer " + strings.Repeat("e", 1<<20), "", "Invalid token"},
		{"admin by Fastly-Key", adminToken, "", "", "admin"},
		{"Fastly-Key before the others", adminToken, "Bearer wrong", "wrong", "admin"},
		{"admin by Authorization", "", "Bearer " + adminToken, "", "admin"},
		{"no admin token in the query", "", "", adminToken, "Invalid token"},
		{"wrong Fastly-Key is ignored", "wrong", "Bearer " + jwt, "", "alice"},
		{"only a wrong Fastly-Key", "wrong", "", "", "Missing 'Authorization' header"},
		{"a longer Fastly-Key", adminToken + "x", "", "", "Missing 'Authorization' header"},
		{"a JWT in Fastly-Key", jwt, "", "", "Missing 'Authorization' header"},
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

func TestEmptyAdminToken(t *testing.T) {
	n := newNode(t, func(o *Options) { o.AdminToken = "" })
	if r := request(exchange{method: "GET", target: "/", header: map[string]string{"Fastly-Key": ""}}); n.isAdmin(r) {
		t.Error("an empty Fastly-Key is admin")
	}
	if _, err := n.authenticateToken(t.Context(), ""); err == nil {
		t.Error("an empty token is admin")
	}
}

// An empty header counts as absent, also if there is another one.
func TestEmptyFastlyKeyBesideAnother(t *testing.T) {
	r := request(exchange{method: "GET", target: "/"})
	r.Header["Fastly-Key"] = []string{"", adminToken}
	if !newNode(t, nil).isAdmin(r) {
		t.Error("the second Fastly-Key is ignored")
	}
}

func TestPublisherIdentity(t *testing.T) {
	n := newNode(t, nil)
	other := pubsub.Key{ID: "aabbccddeeff0011", Value: "v2"}
	if err := n.backplane.PutKey(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	publisherOf := func(raw string) publisher {
		c, err := n.authenticateToken(t.Context(), raw)
		if err != nil {
			t.Fatal(err)
		}
		return c.publisher
	}
	alice1 := publisherOf(n.token(map[string]any{"sub": "alice", "exp": time.Now().Add(time.Hour).Unix()}))
	alice2 := publisherOf(n.token(map[string]any{"sub": "alice", "x-fastly-write": []string{"a"}}))
	if alice1 != alice2 {
		t.Error("two tokens of one subject are two publishers")
	}
	all := []publisher{
		alice1,
		publisherOf(n.token(map[string]any{"sub": "bob"})),
		publisherOf(testkit.Sign(other, map[string]any{"sub": "alice"})),
		publisherOf(n.token(map[string]any{"x-fastly-write": []string{"a"}})),
		publisherOf(n.token(map[string]any{"x-fastly-write": []string{"b"}})),
	}
	seen := make(map[publisher]int)
	for i, p := range all {
		if j, ok := seen[p]; ok {
			t.Errorf("tokens %d and %d are one publisher", i, j)
		}
		seen[p] = i
	}
}

// The reason why a token is refused is logged, without the token, and not sent to the client.
func TestTokenRefusedReason(t *testing.T) {
	n := newNode(t, nil)
	old := n.token(map[string]any{"exp": 1})
	if _, err := n.authenticateToken(t.Context(), old); err == nil || err.Error() != "Invalid token" {
		t.Fatalf("got %v", err)
	}
	if lines := n.log.all(); len(lines) != 1 || !strings.Contains(lines[0], "expired") || strings.Contains(lines[0], old) {
		t.Errorf("logged %q", lines)
	}
}

func TestKeyLookupFailure(t *testing.T) {
	n := newNode(t, nil)
	n.backplane.fail("Key", pubsub.ErrUnavailable)
	unknown := testkit.Sign(pubsub.Key{ID: "ffffffffffffffff", Value: "secret-value"}, map[string]any{})
	_, err := n.authenticateToken(t.Context(), unknown)
	if err == nil || err.kind != authFailed || err.Error() != "Auth process failed" || !errors.Is(err.cause, pubsub.ErrUnavailable) {
		t.Fatalf("got %+v", err)
	}
	if lines := n.log.all(); len(lines) != 1 || !strings.HasPrefix(lines[0], "key lookup failed: ") || strings.Contains(lines[0], unknown) {
		t.Errorf("logged %q", lines)
	}
	if _, err := n.authenticateToken(t.Context(), n.writer("a")); err != nil {
		t.Errorf("with a known key: %v", err)
	}
}
