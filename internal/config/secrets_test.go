package config

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

func TestSecretsAreHidden(t *testing.T) {
	c, _, err := Load(Inputs{Environ: []string{"PUBSUB_ADMIN_TOKEN=s3cret", "PUBSUB_NATS=nats://a", "PUBSUB_NATS_USER=me", "PUBSUB_NATS_PASSWORD=s3cret"}})
	if err != nil || c.AdminToken != "s3cret" || c.NATSPassword != "s3cret" {
		t.Fatalf("AdminToken = %q, NATSPassword = %q, %v", string(c.AdminToken), string(c.NATSPassword), err)
	}
	j, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{c.String(), fmt.Sprint(*c), fmt.Sprintf("%+v %#v", *c, *c), string(j)} {
		if strings.Contains(s, "s3cret") {
			t.Errorf("a secret is not hidden in %s", s)
		}
	}
	if got, want := c.String(), `nats="nats://a" nats-user="me" nats-password="(hidden)" admin-token="(hidden)"`; got != want {
		t.Errorf("String() = %s, want %s", got, want)
	}
}

// TestTokensAreTrimmed checks that white space around a token is not part of it, unlike that
// around a password.
func TestTokensAreTrimmed(t *testing.T) {
	c, _, err := Load(Inputs{
		Flags:   []Flag{{"nats", "nats://a"}, {"admin-token", "\tadmin \n"}, {"nats-user", "me"}, {"nats-password", " pass "}},
		Environ: []string{"PUBSUB_NATS_TOKEN= \n"},
	})
	if err != nil || c.AdminToken != "admin" || c.NATSToken != "" || c.NATSPassword != " pass " {
		t.Errorf("admin token %q, NATS token %q, password %q, %v", string(c.AdminToken), string(c.NATSToken), string(c.NATSPassword), err)
	}
}

func TestAdminTokenFile(t *testing.T) {
	dir := t.TempDir()
	long := strings.Repeat("x", maxSecretBytes)
	for _, tt := range []struct{ content, token string }{
		{"abc\n", "abc"}, {"abc", "abc"}, {"abc\r\n", "abc"}, {long + "\r\n", long}, {" \n\tabc \n\n", "abc"},
		{"abc" + strings.Repeat("\n", 4<<10-3), "abc"}, {"abc" + strings.Repeat("\n", 4<<10) + "s3cret", ""},
		{"", ""}, {"\n", ""}, {"s3cret\ns3cret\n", ""}, {"s3cret s3cret", ""}, {long + "s3cret", ""}, {"s3cret\x00", ""},
	} {
		path := write(t, dir, "token", tt.content)
		c, _, err := Load(Inputs{Flags: []Flag{{"admin-token-file", path}}})
		if tt.token != "" {
			if err != nil || string(c.AdminToken) != tt.token {
				t.Errorf("%q: %v", tt.content, err)
			}
			continue
		}
		want := fmt.Sprintf("admin-token-file %q (--admin-token-file) does not contain a token; its only line takes 1 to 1024 printable ASCII characters without spaces", path)
		if err == nil || err.Error() != want {
			t.Errorf("%q: got %v, want %s", tt.content, err, want)
		}
	}
	missing := filepath.Join(dir, "missing")
	for _, tt := range []struct {
		in   Inputs
		want string
	}{
		{Inputs{Flags: []Flag{{"admin-token-file", missing}}},
			fmt.Sprintf("admin-token-file %q (--admin-token-file) cannot be read (no such file or directory); it takes the path of a file with the token on its only line", missing)},
		{Inputs{Flags: []Flag{{"admin-token-file", missing}}, Environ: []string{"PUBSUB_ADMIN_TOKEN=s3cret"}},
			fmt.Sprintf("admin-token-file %q (--admin-token-file) is not allowed with admin-token ($PUBSUB_ADMIN_TOKEN); give only one of them", missing)},
	} {
		if _, _, err := Load(tt.in); err == nil || err.Error() != tt.want {
			t.Errorf("got %v, want %s", err, tt.want)
		}
	}
}
